"""What the target dynamodb is made of."""
