"""outputs × outputs → ParityReport. Needs numpy alone."""

from typing import TYPE_CHECKING

from aaexport.lazy import lazily

if TYPE_CHECKING:
    from aaexport.parity.cases import Array, Case, given_cases, made_up_cases
    from aaexport.parity.judge import compare, failed, required
    from aaexport.parity.positions import Scores
    from aaexport.parity.report import (
        STAGES,
        Accuracy,
        Computation,
        Divergence,
        ErrorStep,
        OutputParity,
        ParityReport,
        Placement,
        Stage,
        TensorFacts,
    )
    from aaexport.parity.tolerance import (
        COARSER,
        KERNELS,
        PRECISIONS,
        TOLERANCES,
        Bounds,
        Precision,
        Tolerance,
        Tolerances,
        tolerances,
    )
    from aaexport.parity.truth import Own, OwnErrors, Truth

__all__ = [
    "COARSER",
    "KERNELS",
    "PRECISIONS",
    "STAGES",
    "TOLERANCES",
    "Accuracy",
    "Array",
    "Bounds",
    "Case",
    "Computation",
    "Divergence",
    "ErrorStep",
    "OutputParity",
    "Own",
    "OwnErrors",
    "ParityReport",
    "Placement",
    "Precision",
    "Scores",
    "Stage",
    "TensorFacts",
    "Tolerance",
    "Tolerances",
    "Truth",
    "compare",
    "failed",
    "given_cases",
    "made_up_cases",
    "required",
    "tolerances",
]

_HOMES = {
    "COARSER": "tolerance",
    "KERNELS": "tolerance",
    "PRECISIONS": "tolerance",
    "STAGES": "report",
    "TOLERANCES": "tolerance",
    "Accuracy": "report",
    "Array": "cases",
    "Bounds": "tolerance",
    "Case": "cases",
    "Computation": "report",
    "Divergence": "report",
    "ErrorStep": "report",
    "OutputParity": "report",
    "Own": "truth",
    "OwnErrors": "truth",
    "ParityReport": "report",
    "Placement": "report",
    "Precision": "tolerance",
    "Scores": "positions",
    "Stage": "report",
    "TensorFacts": "report",
    "Tolerance": "tolerance",
    "Tolerances": "tolerance",
    "Truth": "truth",
    "compare": "judge",
    "failed": "judge",
    "given_cases": "cases",
    "made_up_cases": "cases",
    "required": "judge",
    "tolerances": "tolerance",
}
__getattr__, __dir__ = lazily(__name__, __all__, _HOMES)
