"""Whether a stream is ready for production: a row for each thing to be seen to, and what was found of it."""
