"""The page of a model that runs in the visitor's browser: markup, one script, one style sheet."""
