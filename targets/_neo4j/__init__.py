"""What the target neo4j is made of, beside what graphs share."""
