"""The verbs: each joins rooms of the house into one call that the library and the command line share."""
