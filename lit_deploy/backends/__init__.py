"""What runs checkpoints and exported files, behind one protocol."""
