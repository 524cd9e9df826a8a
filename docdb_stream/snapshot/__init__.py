"""The snapshot beside a stream: what it is of, its pages from reading to delivery, and who reads them."""
