"""What the targets of AWS share."""
