"""What the target neptune is made of, beside what graphs share."""
