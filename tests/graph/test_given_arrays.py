"""Tensors as onnx keeps them beside a model, and what is none."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from aaexport.errors import DataError
from aaexport.graph.given_arrays import read_tensors

ONE = numpy_helper.from_array(np.ones((2, 2), np.float32), "x")


def changed(**fields):
    tensor = TensorProto()
    tensor.CopyFrom(ONE)
    for name, value in fields.items():
        setattr(tensor, name, value)
    return tensor


def outside(location):
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def written(folder, *tensors):
    for place, tensor in enumerate(tensors):
        (folder / f"input_{place}.pb").write_bytes(tensor.SerializeToString())
    return folder


WRONG = {
    "numbers that end early": (changed(raw_data=b"123"), "input_0.pb must be a whole tensor, but: "),
    "a type that there is not": (changed(data_type=99), "input_0.pb must be a whole tensor, but: "),
    "numbers elsewhere": (outside("/etc/hostname"), "input_0.pb must hold its numbers itself"),
    "numbers beside it": (outside("numbers.data"), "input_0.pb must hold its numbers itself"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_tensor_of_numbers_is_refused(tmp_path, wrong):
    tensor, message = WRONG[wrong]
    with pytest.raises(DataError, match=message):
        read_tensors(written(tmp_path, tensor), ["x"])


@pytest.mark.parametrize("name", ["x", ""])
def test_two_files_of_one_input_are_refused(tmp_path, name):
    written(tmp_path, changed(name=name), ONE)
    with pytest.raises(DataError, match=r"input_1\.pb must be of an input that no other file is of, got 'x'"):
        read_tensors(tmp_path, ["x", "z"])
