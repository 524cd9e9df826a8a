"""What the target webhook is made of: signatures, addresses, connections, and what a receiver's answers mean."""
