"""Where checkpoints are kept: ``mongodb`` (the default) and ``memory`` (for tests and one-off programs)."""
