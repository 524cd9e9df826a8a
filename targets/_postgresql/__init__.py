"""What the target postgresql is made of."""
