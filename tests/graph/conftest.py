"""What tests of models above protobuf's limit share."""

import pytest
from large_graphs import model_of
from low_limits import low_limits

from aaexport.graph.write import write_onnx


@pytest.fixture(scope="module")
def limits():
    """A protobuf of some KB."""
    with low_limits():
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.fixture
def written(limits, path):
    """A model that is too large under such limits, with its data file."""
    write_onnx(model_of(), path)
    return path
