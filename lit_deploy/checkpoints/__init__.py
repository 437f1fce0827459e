"""From the files people have to a checked state dict, and seeded weights in the same layout."""
