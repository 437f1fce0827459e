"""What differs between tasks, and nowhere else: outputs, decoding, comparing, scoring, printing."""
