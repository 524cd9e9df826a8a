"""What the Iceberg target is made of."""
