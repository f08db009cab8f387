"""A path → GraphError where no file can be read: seen without onnx, and so at once."""

from __future__ import annotations

from pathlib import Path

from aaexport.errors import GraphError


def require_readable(path: Path) -> Path:
    """Returns `path`; GraphError, as for any file that is no ONNX model, if it cannot be opened."""
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise GraphError(f"{path} must be a whole ONNX file, but: {error.strerror}") from error
