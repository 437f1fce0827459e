"""LIT networks in plain PyTorch, built from a ModelSpec."""
