"""A verdict → terminal, Markdown and JUnit XML, in one wording."""
