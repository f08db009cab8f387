"""What a verb works on, a model folder, a module or a file, as one value; golden vectors that stand in for it."""
