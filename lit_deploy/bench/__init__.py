"""Speed, measured in turns by processes of their own."""
