"""The step that `verify` and `serve-bench` take first when a folder was never converted."""

from __future__ import annotations

from aaexport.cli.console import say
from aaexport.folder import ModelFolder


def ensure_converted(folder: ModelFolder) -> None:
    """Converts a folder without model.onnx, and says so; one that has it is left alone."""
    if folder.onnx_path.is_file():
        return
    folder.require_weights()
    say(f"{folder.path} has no model.onnx yet: converting it first")
    from aaexport.pipeline.convert import convert

    convert(folder, say=say)
