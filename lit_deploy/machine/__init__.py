"""What this computer has: facts, a GPU, TensorRT, our compiled libraries."""
