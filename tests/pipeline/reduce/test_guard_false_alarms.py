"""No right file fails: the whole zoo in float16, and the trained networks in int8 for CPUs and for TensorRT.

AAEXPORT_SHARD, AAEXPORT_FULL_SIZE and the sizes are as of the false alarms of `verify`. With AAEXPORT_GUARDED=FILE
every file adds one line of JSON to FILE, what the guard measured, and those that FILE tells of already are skipped.
AAEXPORT_TRAINED names folders of trained networks besides the zoo's, as PATH names folders.
"""

from pathlib import Path

import pytest
from sweeps import affordable_size, figures, my_share, tell, told, trained_models

import aaexport
from aaexport.errors import ParityError
from aaexport.folder import checkout, zoo_models
from aaexport.pipeline.reduce.options import ReduceOptions
from aaexport.pipeline.reduce.reduce import reduce_file
from aaexport.pipeline.subject.subject import as_subject, write_random_weights

TOLD = "AAEXPORT_GUARDED"


def zoo():
    """(model, decomposition, opset): what convert chooses at both opsets, and what it chooses for GPUs."""
    for name, folder in zoo_models().items():
        for opset, target in ((20, "cpu"), (23, "cpu"), (23, "cuda")):
            if target == "cpu" or folder.recipe.attention is not None:
                yield name, opset, target


def guarded(folder, path, options, *, opset=None, size=None):
    """What the guard says of the folder's network in fewer bits; the float32 file is not verified for it."""
    aaexport.convert(folder, path, opset=opset, size=size, target=options.target, verify=False)
    try:
        report = reduce_file(as_subject(folder, size=size), path, path.with_name("reduced.onnx"), options).parity
    except ParityError as error:
        report = error.report
    line = {"model": folder.name, "dtype": options.dtype, "opset": opset, "target": options.target}
    tell(TOLD, line | {"size": list(size or folder.recipe.input.size)} | figures(report.guard))
    return report


def is_told(name, dtype, opset, target):
    return any(
        (line["model"], line["dtype"], line["opset"], line["target"]) == (name, dtype, opset, target)
        for line in told(TOLD)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "opset", "target"), my_share(zoo()))
def test_a_right_file_of_the_zoo_in_float16_passes(tmp_path, name, opset, target):
    if is_told(name, "float16", opset, target):
        pytest.skip(f"the file of {TOLD} tells of it")
    folder = checkout(name, tmp_path / name)
    write_random_weights(folder)
    options = ReduceOptions("float16", target=target)
    report = guarded(folder, tmp_path / "model.onnx", options, opset=opset, size=affordable_size(folder))
    assert report.failures == ()
    assert report.passed


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("name", trained_models())
def test_a_right_file_of_a_trained_network_in_int8_passes(tmp_path, name, target):
    folder = checkout(name, None if Path(name).is_dir() else tmp_path / name)
    if is_told(folder.name, "int8", None, target):
        pytest.skip(f"the file of {TOLD} tells of it")
    report = guarded(folder, tmp_path / "model.onnx", ReduceOptions("int8", target=target))
    assert report.failures == ()
    assert report.passed
