"""Where the repository lies, for tests of what stands beside the package: examples, documentation, the Makefile."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HELPERS = Path(__file__).parent
