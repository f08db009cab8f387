"""aaexport: attention-augmented PyTorch models → ONNX files that are proved equal and measured honestly.

The names below are resolved when they are first used (PEP 562), so that `import aaexport` and `aaexport --help`
load neither torch nor onnx nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aaexport.outcome import Presenter, shown_by

if TYPE_CHECKING:
    from aaexport import errors, nn
    from aaexport.errors import AaexportError
    from aaexport.load.measurement import BenchReport
    from aaexport.parity import ParityReport
    from aaexport.pipeline.bench.options import BenchOptions
    from aaexport.pipeline.bench.serve_bench import serve_bench
    from aaexport.pipeline.convert.bring import convert_source
    from aaexport.pipeline.convert.convert import convert
    from aaexport.pipeline.convert.optimize import optimize
    from aaexport.pipeline.convert.options import ConvertOptions, OptimizeOptions
    from aaexport.pipeline.deploy.deploy import check_deployment, deploy
    from aaexport.pipeline.deploy.options import DeployOptions
    from aaexport.pipeline.look.attention import draw_attention
    from aaexport.pipeline.look.inspect import inspect
    from aaexport.pipeline.subject.subject import build_model
    from aaexport.pipeline.tune.options import TuneOptions
    from aaexport.pipeline.tune.tune import tune
    from aaexport.pipeline.verify.options import VerifyOptions
    from aaexport.pipeline.verify.verify import verify
    from aaexport.results import (
        AttentionPicture,
        ConvertResult,
        DeployResult,
        InspectResult,
        OptimizeResult,
        TuneResult,
    )
    from aaexport.training import TrainingComparison, TrainOptions, TrainResult, compare_training, train

__all__ = [
    "AaexportError",
    "AttentionPicture",
    "BenchOptions",
    "BenchReport",
    "ConvertOptions",
    "ConvertResult",
    "DeployOptions",
    "DeployResult",
    "InspectResult",
    "OptimizeOptions",
    "OptimizeResult",
    "ParityReport",
    "TrainOptions",
    "TrainResult",
    "TrainingComparison",
    "TuneOptions",
    "TuneResult",
    "VerifyOptions",
    "__version__",
    "build_model",
    "check_deployment",
    "compare_training",
    "convert",
    "convert_source",
    "deploy",
    "draw_attention",
    "errors",
    "inspect",
    "nn",
    "optimize",
    "serve_bench",
    "train",
    "tune",
    "verify",
]

_HOMES = {
    "AaexportError": "aaexport.errors",
    "AttentionPicture": "aaexport.results",
    "BenchOptions": "aaexport.pipeline.bench.options",
    "BenchReport": "aaexport.load.measurement",
    "ConvertOptions": "aaexport.pipeline.convert.options",
    "ConvertResult": "aaexport.results",
    "DeployOptions": "aaexport.pipeline.deploy.options",
    "DeployResult": "aaexport.results",
    "InspectResult": "aaexport.results",
    "OptimizeOptions": "aaexport.pipeline.convert.options",
    "OptimizeResult": "aaexport.results",
    "ParityReport": "aaexport.parity",
    "TrainOptions": "aaexport.training",
    "TrainResult": "aaexport.training",
    "TrainingComparison": "aaexport.training",
    "TuneOptions": "aaexport.pipeline.tune.options",
    "TuneResult": "aaexport.results",
    "VerifyOptions": "aaexport.pipeline.verify.options",
    "build_model": "aaexport.pipeline.subject.subject",
    "check_deployment": "aaexport.pipeline.deploy.deploy",
    "compare_training": "aaexport.training",
    "convert": "aaexport.pipeline.convert.convert",
    "convert_source": "aaexport.pipeline.convert.bring",
    "deploy": "aaexport.pipeline.deploy.deploy",
    "draw_attention": "aaexport.pipeline.look.attention",
    "inspect": "aaexport.pipeline.look.inspect",
    "optimize": "aaexport.pipeline.convert.optimize",
    "serve_bench": "aaexport.pipeline.bench.serve_bench",
    "train": "aaexport.training",
    "tune": "aaexport.pipeline.tune.tune",
    "verify": "aaexport.pipeline.verify.verify",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("aaexport")
    if name in ("errors", "nn"):
        return importlib.import_module(f"aaexport.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'aaexport' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _presenter() -> Presenter:
    """Here all rooms meet: a result of any of them is shown by the report room, which is loaded when one is."""
    from aaexport.report import present

    return present


shown_by(_presenter)
