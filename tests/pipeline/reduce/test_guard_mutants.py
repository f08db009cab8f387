"""The guard fails every mutant of a right file in float16 or int8, and no right file.

The mutants have digests of their own, as a tool would write them: what they hold is what is judged. The slow tests
take trained networks, and put a fault into its first, a middle and its last place; AAEXPORT_TRAINED and
AAEXPORT_GUARDED are as of the test of false alarms.
"""

from functools import partial
from pathlib import Path

import onnx
import pytest
from precision_mutants import (
    FLOAT16,
    INT8,
    calibrated_on_noise,
    everywhere,
    louder_attention,
    overflow_hidden,
    quantized_against_its_word,
)
from sweeps import figures, tell, trained_models

import aaexport
from aaexport.folder import checkout, open_folder
from aaexport.graph.digests import record_digests
from aaexport.graph.files import read_onnx
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.kinds import read_origin
from aaexport.graph.precision.observe import observe
from aaexport.graph.precision.ranges import Range
from aaexport.graph.precision.stored import stored_convolutions
from aaexport.pipeline.reduce.calibrate import ranges_of
from aaexport.pipeline.reduce.options import ReduceOptions
from aaexport.pipeline.reduce.reduce import reduce_file
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.guarded import Guard, gather_evidence
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.verify import judge_file

TOLD = "AAEXPORT_GUARDED"  # as in the test of false alarms
PLAIN = "per-tensor where per-channel was"
WHOLE = {name: INT8[name] for name in (PLAIN, "attention quantized")}
OF_BIASES = "a bias off by 2"  # those of symmetric files are in float32
ANYWHERE = {
    PLAIN,
    OF_BIASES,
    "a scale off by 2",
    "a scale off by 2 on both sides, which clips",
    "a scale off by 2 on both sides, which is coarse",
    "a zero point shifted",
    "a zero point shifted by 16",
    "a saturated weight",
    "channels with the neighbour's scale",
    "scales of two tensors swapped",
}
FEW = ("a zero point shifted", "per-tensor in one layer", "scales of two tensors swapped")


class Judged:
    """A folder, its file in float32, and who judges what is made of that: what is right is computed once."""

    def __init__(self, folder, source):
        self.folder, self.source, self.subject, self.guards = folder, source, as_subject(folder), {}

    def _guard(self, kind, sibling):
        if (kind, sibling) not in self.guards:
            evidence = gather_evidence(self.subject, kind, None, None, 0)
            self.guards[kind, sibling] = Guard(self.subject, kind, sibling, evidence, 10**6, None)
        return self.guards[kind, sibling]

    def report(self, model, path, kind, sibling=None):
        record_digests(model)
        onnx.save(model, path)
        guard = self._guard(kind, sibling or self.source)
        return judge_file(self.subject, path, VerifyOptions(dtype=kind), guard=guard)[0]


@pytest.fixture(scope="module")
def tiny(reduced_once):
    folder = open_folder(reduced_once[0])
    return Judged(folder, folder.onnx_path)


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_a_right_file_passes(tiny, tmp_path, kind):
    assert tiny.report(read_onnx(tiny.folder.onnx_of(kind)), tmp_path / "x.onnx", kind).passed


@pytest.mark.parametrize("name", FEW)
def test_a_few_mutants_of_a_small_network_fail(tiny, tmp_path, name):
    mutant = INT8[name](read_onnx(tiny.folder.onnx_of("int8")))
    assert not tiny.report(mutant, tmp_path / "x.onnx", "int8").passed


@pytest.fixture(scope="module", params=trained_models())
def trained(request, tmp_path_factory):
    """A trained network, whose float32 file is written elsewhere than into its folder."""
    place = tmp_path_factory.mktemp("trained")
    folder = checkout(request.param, None if Path(request.param).is_dir() else place / request.param)
    source = place / "model.onnx"
    aaexport.convert(folder, source, verify=False)
    return Judged(folder, source)


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def in_int8(request, trained):
    """(the network, for which target, the right file in int8, calibrated on 64 images)."""
    path = trained.source.with_name(f"{request.param}.onnx")
    options = ReduceOptions("int8", keep=("auto",), target=request.param)
    reduce_file(trained.subject, trained.source, path, options)
    return trained, request.param, read_onnx(path)


def missed(judged, target, faults, path):
    """The names of the faults that the guard lets pass."""
    found = []
    for name, mutant in faults:
        guard = judged.report(mutant, path, "int8").guard
        tell(TOLD, {"model": judged.folder.name, "dtype": "int8", "target": target, "fault": name} | figures(guard))
        found += [name] if guard.passed else []
    return found


@pytest.mark.slow
def test_every_mutant_of_a_trained_network_in_int8_fails(in_int8, tmp_path):
    judged, target, right = in_int8
    whole = {name: fault(right) for name, fault in WHOLE.items() if name == PLAIN or _attends(right)}
    somewhere = dict(everywhere(right))
    assert {name.rpartition(", ")[0] for name in somewhere} == ANYWHERE - ({OF_BIASES} if target == "cuda" else set())
    assert all(mutant != right for mutant in (whole | somewhere).values())
    assert missed(judged, target, (whole | somewhere).items(), tmp_path / "x.onnx") == []


def _attends(model):
    return any(node.op_type in ("Softmax", "Attention") for node in model.graph.node)


@pytest.mark.slow
def test_a_layer_that_was_to_stay_in_float32_and_did_not_fails(in_int8, tmp_path):
    judged, target, right = in_int8
    ranges = {name: Range(*pair) for name, pair in read_origin(right).calibration["ranges"].items()}
    layer = stored_convolutions(right)[-1]
    mutant = quantized_against_its_word(read_onnx(judged.source), ranges, layer.node, symmetric=target == "cuda")
    faults = [("a layer quantized that should not be", mutant)]
    assert missed(judged, target, faults, tmp_path / "x.onnx") == []


@pytest.mark.slow
def test_calibration_on_noise_fails(in_int8, tmp_path):
    judged, target, _ = in_int8
    shape = 64, *judged.subject.input_shape
    source = read_onnx(judged.source)
    noisy = partial(calibrated_on_noise, source, shape, symmetric=target == "cuda")
    faults = ((f"calibration on noise of {scale}", noisy(scale=scale)) for scale in (0.1, 1.0, 4.0))
    assert missed(judged, target, faults, tmp_path / "x.onnx") == []


@pytest.fixture(scope="module")
def in_float16(trained):
    path = trained.source.with_name("float16.onnx")
    reduce_file(trained.subject, trained.source, path, ReduceOptions("float16"))
    return read_onnx(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT16)
def test_every_mutant_of_a_trained_network_in_float16_fails(trained, in_float16, tmp_path, name):
    guard = trained.report(FLOAT16[name](in_float16), tmp_path / "x.onnx", "float16").guard
    tell(TOLD, {"model": trained.folder.name, "dtype": "float16", "fault": name} | figures(guard))
    assert not guard.passed


@pytest.mark.slow
def test_an_overflow_that_the_cpu_hides_fails_by_the_evaluator(trained, tmp_path):
    source = read_onnx(trained.source)
    loud = louder_attention(source, 300.0)
    if loud == source:
        pytest.skip("the network has no attention")
    sibling = tmp_path / "loud.onnx"
    onnx.save(loud, sibling)
    guard = trained.report(overflow_hidden(loud), tmp_path / "x.onnx", "float16", sibling).guard
    fault = "a float16 overflow hidden by the CPU"
    tell(TOLD, {"model": trained.folder.name, "dtype": "float16", "fault": fault} | figures(guard))
    lost = [row for row in guard.rows if row.measure == "not finite" and not row.passed]
    assert {row.computation for row in lost} == {"onnx's reference evaluator"}
    evidence = gather_evidence(trained.subject, "float16", None, None, 0)
    ranges = ranges_of(observe(loud, "float16"), evidence.images[:64], None)
    kept = to_float16(loud, ranges).model
    rows = trained.report(kept, tmp_path / "x.onnx", "float16", sibling).guard.rows
    assert all(row.passed for row in rows if row.measure == "not finite")
