"""outputs × outputs → ParityReport. Needs numpy alone."""

from aaexport.parity.cases import Array, Case, given_cases, made_up_cases
from aaexport.parity.judge import Own, OwnErrors, Truth, compare, failed
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
    PRECISIONS,
    TOLERANCES,
    Bounds,
    Precision,
    Tolerance,
    Tolerances,
    tolerances,
)

__all__ = [
    "COARSER",
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
    "Stage",
    "TensorFacts",
    "Tolerance",
    "Tolerances",
    "Truth",
    "compare",
    "failed",
    "given_cases",
    "made_up_cases",
    "tolerances",
]
