"""What the target redis is made of."""
