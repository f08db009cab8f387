"""What the one input of every captured module is called, in its file too."""

INPUT_NAME = "input"
