"""The guard fails every mutant of a right file in float16 or int8, and no right file.

The mutants have digests of their own, as a tool would write them: what they hold is what is judged.
"""

import onnx
import pytest
from precision_mutants import (
    FLOAT16,
    INT8,
    calibrated_on_noise,
    louder_attention,
    overflow_hidden,
)

import aaexport
from aaexport.folder import checkout, open_folder
from aaexport.graph.digests import record_digests
from aaexport.graph.files import read_onnx
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.observe import observe
from aaexport.pipeline.reduce.calibrate import ranges_of
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.guarded import Guard, gather_evidence
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.verify import judge_file

TRAINED = ("aa_cnn3_digits", "aa_wrn10_1_digits", "conv_cnn3_digits", "wrn10_1_digits")
FEW = ("a zero point shifted", "per-tensor in one layer", "scales of two tensors swapped")


class Judged:
    """A folder with its three files, and who judges mutants of them: what is right is computed once."""

    def __init__(self, folder):
        self.folder, self.subject, self.guards = folder, as_subject(folder), {}

    def _guard(self, kind, sibling):
        if (kind, sibling) not in self.guards:
            evidence = gather_evidence(self.subject, kind, None, None, 0)
            self.guards[kind, sibling] = Guard(self.subject, kind, sibling, evidence, 10**6, None)
        return self.guards[kind, sibling]

    def report(self, model, path, kind, sibling=None):
        record_digests(model)
        onnx.save(model, path)
        guard = self._guard(kind, sibling or self.folder.onnx_path)
        return judge_file(self.subject, path, VerifyOptions(dtype=kind), guard=guard)[0]


@pytest.fixture(scope="module")
def tiny(reduced_once):
    return Judged(open_folder(reduced_once[0]))


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_a_right_file_passes(tiny, tmp_path, kind):
    assert tiny.report(read_onnx(tiny.folder.onnx_of(kind)), tmp_path / "x.onnx", kind).passed


@pytest.mark.parametrize("name", FEW)
def test_a_few_mutants_of_a_small_network_fail(tiny, tmp_path, name):
    mutant = INT8[name](read_onnx(tiny.folder.onnx_of("int8")))
    assert not tiny.report(mutant, tmp_path / "x.onnx", "int8").passed


@pytest.fixture(scope="module", params=TRAINED)
def trained(request, tmp_path_factory):
    folder = checkout(request.param, tmp_path_factory.mktemp("trained") / request.param)
    aaexport.convert(folder)
    for kind in ("int8", "float16"):
        assert aaexport.convert(folder, dtype=kind).parity.passed
    return Judged(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", INT8)
def test_every_mutant_of_a_trained_network_in_int8_fails(trained, tmp_path, name):
    right = read_onnx(trained.folder.onnx_of("int8"))
    mutant = INT8[name](right)
    if mutant == right:
        pytest.skip("the network has nothing of the kind")
    assert not trained.report(mutant, tmp_path / "x.onnx", "int8").passed


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT16)
def test_every_mutant_of_a_trained_network_in_float16_fails(trained, tmp_path, name):
    mutant = FLOAT16[name](read_onnx(trained.folder.onnx_of("float16")))
    assert not trained.report(mutant, tmp_path / "x.onnx", "float16").passed


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_calibration_on_noise_fails(trained, tmp_path, scale):
    source = read_onnx(trained.folder.onnx_path)
    noisy = calibrated_on_noise(source, (64, *trained.subject.input_shape), scale=scale)
    assert not trained.report(noisy, tmp_path / "x.onnx", "int8").passed


@pytest.mark.slow
def test_an_overflow_that_the_cpu_hides_fails_by_the_evaluator(trained, tmp_path):
    source = read_onnx(trained.folder.onnx_path)
    loud = louder_attention(source, 300.0)
    if loud == source:
        pytest.skip("the network has no attention")
    sibling = tmp_path / "loud.onnx"
    onnx.save(loud, sibling)
    report = trained.report(overflow_hidden(loud), tmp_path / "x.onnx", "float16", sibling)
    lost = [row for row in report.guard.rows if row.measure == "not finite" and not row.passed]
    assert {row.computation for row in lost} == {"onnx's reference evaluator"}
    evidence = gather_evidence(trained.subject, "float16", None, None, 0)
    ranges = ranges_of(observe(loud, "float16"), evidence.images[:64], None)
    kept = to_float16(loud, ranges).model
    rows = trained.report(kept, tmp_path / "x.onnx", "float16", sibling).guard.rows
    assert all(row.passed for row in rows if row.measure == "not finite")
