"""A protobuf of some KB: what happens above its 2 GiB, seen on small models."""

from contextlib import contextmanager

import pytest

from aaexport.graph import light, outside

LIMIT, LARGE = 2**12, 64  # bytes of a model, numbers of a tensor that may lie outside


@contextmanager
def low_limits():
    """Within the block a model of more than 4 KiB is too large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outside, "LIMIT", LIMIT)
        patch.setattr(light, "LARGE", LARGE)
        yield
