"""From a wide file to one of 8 bits: ranges, gates, and which modules suffer most."""
