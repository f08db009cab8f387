"""Fault injection: `verify` fails every mutant of a right file, and names the node where the fault is."""

import contextlib
import copy
import re
import shutil
from dataclasses import replace

import onnx
import pytest
from good_files import make_good_files
from misleading import MISLEADING, input_in_float64, on_graph
from mutants import ALIKE, MISCOMPUTING, SAYS, UNSEEN
from surgery import touched
from torch.utils._python_dispatch import _get_current_dispatch_mode

from aaexport.errors import GraphError
from aaexport.nn.augmented import augmented_layers
from aaexport.pipeline.export.export import export_again
from aaexport.pipeline.verify import computations, diagnose, locate, matrix

LEFT_OUT_BY_ONNXRUNTIME = ("softmax in float16",)  # whose casts it drops, so that only onnx's evaluator shows it


@pytest.fixture(scope="module")
def good_files(tmp_path_factory):
    """What is right, the fresh export and the answers, is the same for all mutants of a good file."""
    known = {}

    def export_once(subject, provenance, room=None):
        settings = repr(provenance)
        if settings not in known:
            known[settings] = export_again(subject, provenance, room)
        return known[settings]

    with pytest.MonkeyPatch.context() as patch:
        for user in (diagnose, locate):
            patch.setattr(user, "export_again", export_once)
        patch.setattr(computations, "oracles", remembering(computations.oracles))
        patch.setattr(matrix, "torch_row", remembering_variants(matrix.torch_row))
        yield make_good_files(tmp_path_factory.mktemp("good"), export_once)


def remembering(oracles):
    """Its runners, kept for every subject, with all that they have answered."""
    opened = {}

    def once(subject):
        key = identity(subject)
        if key not in opened:
            open_definition, single = oracles(subject)
            exact = open_definition()
            for runner in (exact, single):
                runner.infer = answering_once(runner.infer)
            for ask in ("with_coarse_kernels", "choices", "operators"):  # what excuses a file, once it is wrong
                setattr(single, ask, answering_once(getattr(single, ask)))
            opened[key] = (lambda: exact, single)
        return opened[key]

    return once


def remembering_variants(torch_row):
    """The row of PyTorch with the layers as they are written out, whose runner is kept likewise."""
    opened = {}

    def once(subject, module, how, *rest):
        row = torch_row(subject, module, how, *rest)
        layers = [(path, str(layer.decomposition), layer.blocks) for path, layer in augmented_layers(module).items()]
        key = (identity(subject), *layers)

        def kept():
            if key not in opened:
                opened[key] = row.open()
                opened[key].infer = answering_once(opened[key].infer)
            return contextlib.nullcontext(opened[key])  # which the next one needs too: it is not closed

        return replace(row, open=kept)

    return once


def identity(subject):
    return (subject.weights_digest, subject.output_names, None if subject.recipe is None else subject.recipe.digest())


def answering_once(infer):
    answers = {}

    def ask(feeds, *how):
        if _get_current_dispatch_mode() is not None:  # who looks on wants to see it computed
            return infer(feeds, *how)
        key = (*((name, array.shape, array.tobytes()) for name, array in feeds.items()), repr(how))
        if key not in answers:
            answers[key] = infer(feeds, *how)
        return copy.copy(answers[key])

    return ask


@pytest.fixture
def mutant(good_files, tmp_path):
    """Makes a copy of a good file's folder, spoils it, and returns the good file with the path of the mutant."""

    def make(name, spoil):
        good = good_files[name]
        folder = tmp_path / "spoiled" / "model"
        shutil.copytree(good.path.parent, folder)
        model = onnx.load(good.path)
        spoil(model, folder)
        (folder / good.path.name).write_bytes(model.SerializeToString())
        assert contents(folder) != contents(good.path.parent), "the mutant is no mutant"
        return good, folder / good.path.name

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["digits", "resnet", "resnet by torch", "module", "heads", "faint", "masked"])
def test_a_good_file_passes(good_files, name):
    good = good_files[name]
    report = good.verify(good.path)
    assert report.failures == ()
    assert report.passed


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in MISCOMPUTING]
)
def test_a_fault_of_the_function_is_caught_and_located(mutant, name):
    kind, spoil = MISCOMPUTING[name]
    good, path = mutant(kind, on_graph(spoil))
    changed, consumers = touched(onnx.load(good.path), onnx.load(path))
    assert changed, "the mutant is no mutant"
    # onnx's evaluator takes as long as all else.
    report = good.verify(path, runtimes=None if name in LEFT_OUT_BY_ONNXRUNTIME else ("unoptimized", "onnxruntime"))
    assert report.failures
    assert not report.passed
    if name not in UNSEEN:
        assert any(not row.passed for row in report.computations), f"only the digests told: {report.failures}"
    found = report.divergence
    assert found is not None, f"nothing was located; the fault is in {sorted(changed)}"
    assert found.node in changed | consumers, (
        f"located in {found.node} ({found.operator}, {found.relative_error} off); "
        f"the fault is in {sorted(changed)}, read by {sorted(consumers)}"
    )


@pytest.mark.parametrize("name", MISCOMPUTING)
def test_a_fault_of_the_function_leaves_a_valid_graph(mutant, name):
    kind, spoil = MISCOMPUTING[name]
    onnx.checker.check_model(onnx.load(mutant(kind, on_graph(spoil))[1]), full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_a_fault_of_the_function_is_the_one_that_it_is_called(mutant, name):
    kind, spoil = MISCOMPUTING[name]
    good, path = mutant(kind, on_graph(spoil))
    report = good.verify(path, locate=False)
    assert any(SAYS[name] in failure for failure in report.failures), report.failures


@pytest.mark.parametrize("name", MISLEADING)
def test_a_fault_of_the_file_is_caught_and_told(mutant, name):
    kind, spoil, says = MISLEADING[name]
    good, path = mutant(kind, spoil)
    report = good.verify(path, locate=False)
    assert not report.passed
    assert any(re.search(says, failure) for failure in report.failures), report.failures


@pytest.mark.parametrize("name", ["softmax on the wrong axis", "one bias off"])
def test_the_command_exits_with_3_for_a_fault_of_the_function(mutant, cli, name):
    kind, spoil = MISCOMPUTING[name]
    assert exit_code(cli, mutant(kind, on_graph(spoil))[1]) == 3


@pytest.mark.parametrize(
    "name",
    ["contrib operator", "opset of the metadata", "external data in the folder above", "weights trained on"],
)
def test_the_command_exits_with_3_for_a_fault_of_the_file(mutant, cli, name):
    kind, spoil, _ = MISLEADING[name]
    assert exit_code(cli, mutant(kind, spoil)[1]) == 3


def exit_code(cli, path):
    return cli("--quiet", "verify", path.parent, "--onnx", path).code


def test_a_file_that_takes_other_inputs_is_not_judged(mutant):
    good, path = mutant("digits", on_graph(input_in_float64))
    with pytest.raises(GraphError, match="input input must be float32, got 'double'"):
        good.verify(path)
