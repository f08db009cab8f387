"""What every pass to another precision begins and ends with."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from aaexport.graph.digests import renew_digests
from aaexport.graph.optimize import editable, tidy
from aaexport.graph.outside import Room, move_out
from aaexport.graph.precision.kinds import Kind, record_kind, require_float32
from aaexport.graph.precision.reduced import Kept, Layer, Reduced, rows

CONSTANTS = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)


def begun(model: onnx.ModelProto, kind: Kind) -> ir.Model:
    """A copy of the model for a pass to `kind`, without functions and with all constants as initializers.

    Raises:
        GraphError: the model is not in float32, or is none.
    """
    require_float32(model, kind)
    whole = editable(model)
    CONSTANTS(whole)
    return whole


def ended(
    whole: ir.Model,
    model: onnx.ModelProto,
    kind: Kind,
    reduced: Sequence[Layer],
    kept: Sequence[Kept],
    room: Room | None,
) -> Reduced:
    """What was made of `model`, without what nothing needs any more; it says what it is, and its digests are renewed.

    Raises:
        GraphError: it is above 2 GiB and there is no room.
        FolderError: there is too little of it.
    """
    tidy(whole)
    move_out(whole, room)
    written = ir.serde.serialize_model(whole)
    record_kind(written, kind, rows(kept))
    renew_digests(written, model)
    return Reduced(written, tuple(reduced), tuple(kept))
