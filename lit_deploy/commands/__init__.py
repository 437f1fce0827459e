"""One file a command: its options and help. The work is done elsewhere, and imported when a command runs."""
