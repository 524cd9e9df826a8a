"""What the target mongodb is made of."""
