"""nn.Module → the ONNX file that `torch.onnx.export` writes when nobody has heard of aaexport."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from aaexport.capture.program import EXAMPLE_BATCH
from aaexport.errors import ExportError, root_cause
from aaexport.graph.convert import quiet_exporter
from aaexport.recipe import Batch


def export_plainly(module: nn.Module, path: Path, *, input_shape: tuple[int, int, int], batch: Batch) -> None:
    """Exports `module` for inputs (batch, *input_shape), every option but the dynamic batch left at its default.

    The weights lie beside `path`, as `<path>.data`. Nothing is checked or rewritten.

    Raises:
        ExportError: torch cannot export the module; the text holds its first line.
    """
    size = EXAMPLE_BATCH if batch == "dynamic" else batch
    shapes = ({0: Dim("batch")},) if batch == "dynamic" else None
    try:
        with quiet_exporter():
            torch.onnx.export(
                module, (torch.zeros(size, *input_shape),), str(path), dynamo=True, dynamic_shapes=shapes
            )
    # The exporter raises its own errors and whatever its passes raise: there is no common base.
    except Exception as error:
        raise ExportError(f"plain torch.onnx.export failed: {root_cause(error)}") from error
