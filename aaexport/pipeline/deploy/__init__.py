"""A model folder becomes files by which other systems serve it, and such files are checked without these systems."""
