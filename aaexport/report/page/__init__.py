"""HTML pages: markup that escapes, plots as SVG, one style sheet."""
