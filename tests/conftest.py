"""What tests share: a seeded generator, the GPU where there is one, the command line, a converted model folder."""

import copy
import functools
import gc
import hashlib
import os
import shutil
from dataclasses import replace

# Test processes share the cores: torch's threads of one would spin against those of the other. Before torch is there.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from folders import tiny_folder
from outcomes import Outcome

from aaexport.cli import main as cli_main
from aaexport.cli.console import settings
from aaexport.folder import open_folder

# What collection makes stays to the end: looking through it again and again for garbage takes a quarter of its time.
gc.disable()

# Files that take longest: begun first, so that no process is left with one of them when the others are done.
LONGEST = (
    *(
        "test_mutants.py",
        "test_pipeline.py",
        "test_bring.py",
        "test_serve_bench.py",
        "test_verify.py",
        "test_pages.py",
    ),
    *("test_optimize_spellings.py", "test_size.py", "test_cli_errors.py", "test_attention_maps.py", "test_locate.py"),
    *("test_training_options.py", "test_augmented_properties.py", "test_guards.py", "test_bench_html.py"),
    *(
        "test_graph.py",
        "test_portability.py",
        "test_training.py",
        "test_worker.py",
        "test_networks.py",
        "test_tune.py",
    ),
)


def pytest_configure(config):
    """The longest files first is no use where pytest-xdist begins with those of most tests instead, as it would."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Brings the longest files to the front; the order within each stays."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish(session):
    """What stays is not looked through in the tests either."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def exporter_set_up_once():
    """For each export torch looks up 500 functions, and onnxscript reads their sources anew: together over a second.

    We add no function of our own, so that every export may look into the same tables.
    """
    from onnxscript import values
    from torch.onnx._internal.exporter import _decomp, _registration

    read = values.TracedOnnxFunction.function_ir.fget
    look_up = _registration.ONNXRegistry.from_torchlib
    decompositions = _decomp.create_onnx_friendly_decomposition_table
    decompositions_of = functools.cache(decompositions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values.TracedOnnxFunction, "function_ir", property(functools.cache(read)))
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(functools.cache(look_up)))
        patch.setattr(
            _decomp,
            "create_onnx_friendly_decomposition_table",
            lambda written: dict(decompositions_of(frozenset(written))),
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def programs_written_once():
    """What torch's exporter makes of a program is the same every time, and takes it seconds."""
    import torch

    from aaexport.pipeline.export import export

    written = {}
    to_onnx = export.to_onnx

    def write_once(program, *, opset, output_names, room):
        numbers = hashlib.sha256()
        for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
            numbers.update(f"{name} {tensor}".encode() if not isinstance(tensor, torch.Tensor) else _bytes(tensor))
        # Whoever puts something in the exporter's place is to get that.
        key = (str(program), numbers.digest(), opset, tuple(output_names), torch.onnx.export)
        if key not in written:
            new = to_onnx(program, opset=opset, output_names=output_names, room=room)
            if room is not None and room.is_used:  # it is gone when the conversion ends
                return new
            written[key] = new
        return replace(written[key], model=copy.deepcopy(written[key].model))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", write_once)
        yield


def _bytes(tensor):
    return tensor.detach().contiguous().cpu().numpy().tobytes()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def cuda():
    """The device `cuda`. Without one a test is skipped, or fails where AAEXPORT_REQUIRE_CUDA=1 promises one."""
    from aaexport.runners.ort import WORKS, working_providers
    from aaexport.runners.ort_settings import PROVIDERS

    state = working_providers().get(PROVIDERS["cuda"], "not part of this onnxruntime")
    return "cuda" if state == WORKS else _without_cuda(f"CUDA does not work here: {state}")


@pytest.fixture(scope="session")
def torch_cuda():
    """As `cuda`, of PyTorch, which may be built for the CPU on a machine with a GPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return _without_cuda(f"PyTorch {torch.__version__} finds no CUDA device; install a build of it for CUDA")


def _without_cuda(reason):
    if os.environ.get("AAEXPORT_REQUIRE_CUDA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory):
    """A GPU that computes nothing, for processes that tests start (tests/fake_cuda); skipped where none is built."""
    from build_fake_cuda import why_not
    from fake_cuda import built_once

    if reason := why_not():
        pytest.skip(f"no fake CUDA: {reason}")
    own = tmp_path_factory.mktemp("fake_cuda")
    run = own.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else own.parent  # of all test processes
    return built_once(run / "fake_cuda_of_all", own / "built")


@pytest.fixture
def cli(monkeypatch, capfd, tmp_path):
    """Runs `aaexport …` in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["aaexport", *map(str, arguments)])
        capfd.readouterr()
        code = cli_main._run()
        settings.verbose = settings.quiet = False
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def all_augmented_once(tmp_path_factory):
    """As `converted_once`, but all three layers are augmented: for files that take it in its place."""
    return _converted(tiny_folder(tmp_path_factory.mktemp("augmented") / "tiny", all_augmented=True))


@pytest.fixture(scope="session")
def converted_once(tmp_path_factory):
    """A tiny augmented network with random weights, converted and verified once for all tests."""
    return _converted(tiny_folder(tmp_path_factory.mktemp("converted") / "tiny"))


@pytest.fixture
def converted(converted_once, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(converted_once, tmp_path / "tiny")
    return open_folder(tmp_path / "tiny")


def _converted(folder):
    """Its path, with random weights and a model.onnx of them."""
    from aaexport.pipeline.convert.convert import convert
    from aaexport.pipeline.subject.subject import write_random_weights

    write_random_weights(folder)
    convert(folder)
    return folder.path
