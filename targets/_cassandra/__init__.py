"""What the target cassandra is made of."""
