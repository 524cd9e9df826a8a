"""What the Kafka target is made of: a producer for each client library, and what they share."""
