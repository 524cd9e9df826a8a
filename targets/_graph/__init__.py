"""What the targets of graph databases share: the mapping, values, and the statements that keep a graph equal."""
