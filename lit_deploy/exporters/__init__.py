"""Exporters: from a checkpoint to a file that runs elsewhere."""
