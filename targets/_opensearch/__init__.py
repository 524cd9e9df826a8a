"""What the OpenSearch target is made of."""
