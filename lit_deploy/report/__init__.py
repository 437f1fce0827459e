"""Results as terminal tables, JSON, Markdown and pictures. Measures nothing."""
