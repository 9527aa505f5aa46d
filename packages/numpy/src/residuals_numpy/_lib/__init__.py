"""Functions of arrays that several ops need, a file a family; nothing here knows about an op."""
