"""What a file says about itself: manifest, sidecar, and the check before opening."""
