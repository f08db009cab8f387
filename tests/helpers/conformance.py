"""onnx's own conformance suite: every operator's models, and those that the package ships, each with its inputs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
from onnx import TensorProto, numpy_helper, version_converter

SHIPPED = Path(onnx.backend.test.__file__).parent / "data"
KINDS = ("pytorch-converted", "pytorch-operator", "simple")


@dataclass(frozen=True)
class Model:
    """A model, and for each of its data sets the serialized tensors of its inputs; None for what is no tensor."""

    name: str
    serialized: bytes
    inputs: tuple[tuple[bytes | None, ...], ...]

    @property
    def proto(self):
        return onnx.load_model_from_string(self.serialized)

    def write(self, folder):
        """model.onnx in a new folder, and beside it the inputs as onnx's own runners have them; its path."""
        folder.mkdir()
        path = folder / "model.onnx"
        path.write_bytes(self.serialized)
        (folder / "inputs").mkdir()
        for number, tensors in enumerate(self.inputs):
            data = folder / "inputs" / f"test_data_set_{number}"
            data.mkdir()
            for place, tensor in enumerate(tensors):
                if tensor is not None:
                    (data / f"input_{place}.pb").write_bytes(tensor)
        return path


def of_operators():
    """What onnx makes of its operators when it is asked for it, which takes seconds."""
    from onnx.backend.test.case.node import collect_testcases

    with np.errstate(all="ignore"):
        cases = collect_testcases(None)
    for case in cases:
        names = [value.name for value in case.model.graph.input]
        inputs = tuple(
            tuple(_serialized(value, name) for value, name in zip(given, names, strict=False))
            for given, _ in case.data_sets
        )
        yield Model(case.name, case.model.SerializeToString(), inputs)


def shipped(names=None):
    """The models that lie in the package, or those named `kind/name`; where they are older than opset 11, in 13."""
    for kind in KINDS:
        for folder in sorted((SHIPPED / kind).iterdir()):
            if names is not None and f"{kind}/{folder.name}" not in names:
                continue
            sets = sorted(folder.glob("test_data_set_*"))
            inputs = tuple(
                tuple(path.read_bytes() for path in sorted(each.glob("input_*.pb"), key=_number)) for each in sets
            )
            yield Model(f"{kind}/{folder.name}", _newer(folder / "model.onnx"), inputs)


def _newer(path):
    """The file, or what the converter makes of an old one, which stays in its version of the format."""
    model = onnx.load(path)
    if all(entry.version >= 11 for entry in model.opset_import if entry.domain == ""):
        return path.read_bytes()
    try:
        return version_converter.convert_version(model, 13).SerializeToString()
    except RuntimeError:  # there is no way from every operator to its successor
        return path.read_bytes()


def _number(path):
    return int(path.stem.rpartition("_")[2])


def _serialized(value, name):
    if isinstance(value, TensorProto):
        return value.SerializeToString()
    if isinstance(value, np.ndarray | np.generic):
        return numpy_helper.from_array(np.asarray(value), name).SerializeToString()
    return None
