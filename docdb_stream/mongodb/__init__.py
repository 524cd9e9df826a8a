"""What speaks to the cluster: connecting, reading, and what its errors mean."""
