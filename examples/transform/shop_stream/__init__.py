"""What of a shop's changes is delivered."""
