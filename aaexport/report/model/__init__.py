"""A model as a page: its parts as boxes, what the graph rules did, and where its heads attend."""
