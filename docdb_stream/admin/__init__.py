"""What an operator asks of a stream: how it stands, whether it would work, and to move or repeat it."""
