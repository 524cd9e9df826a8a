"""What is known of the documents of a collection: their fields, the types of these, and the columns they make."""
