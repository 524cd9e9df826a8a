"""How events are written and read, one file a format."""
