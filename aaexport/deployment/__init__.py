"""Facts of a model → files by which other systems serve it, each checked without its system: one file a target."""
