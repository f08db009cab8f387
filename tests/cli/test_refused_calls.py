"""A call that is refused, or fails before it came to anything, leaves no copy of a zoo model."""

import pytest
from outcomes import error_of

from aaexport.cli import main
from aaexport.errors import ParityError
from aaexport.parity import ParityReport

ZOO = "aa_cnn3_digits"
NO_WEIGHTS = "resnet20_cifar10"
BENCH = ("--device", "cpu", "--duration", "0.1", "--warmup", "0", "--batch", "1", "--compare", "none", "--no-check")
# What each command refuses, with its exit code: values, names, contradictions, files that are not there.
REFUSED = {
    "convert": (
        (("--size", "100000", "100000"), 2),
        (("--size", "1", "1"), 2),
        (("--size", "3000", "3000"), 2),
        (("--opset", "17"), 2),
        (("--opset", "20", "--decomposition", "fused"), 2),
        (("--batch", "100000000"), 2),
        (("--atol", "-1"), 2),
        (("--max-attention-memory", "0"), 2),
        (("--max-attention-memory", "0.000001"), 2),
        (("--max-attention-memory", "1", "--with-attention"), 2),
        (("--max-attention-memory", "1", "--decomposition", "skew"), 2),
        (("--checkpoint", "x.pt"), 2),
    ),
    "verify": (
        (("--size", "1", "1"), 2),
        (("--size", "100000", "1"), 2),
        (("--device", "tpu"), 2),
        (("--runtimes", "abacus"), 2),
        (("--batch", "100000"), 2),
        (("--rtol", "nan"), 2),
        (("--junit", "none/x.xml"), 1),
        (("--module", "x.py:Net"), 1),
        (("--module", "torch.nn:Identity"), 2),
        (("--onnx", "none.onnx"), 1),
        pytest.param(
            ("--atol", "nothing=1"), 2, marks=pytest.mark.slow
        ),  # only the converted model tells its outputs
        (("--inputs", "none.npz"), 1),
    ),
    "serve-bench": (
        (("--size", "1", "1"), 2),
        (("--duration", "0"), 2),
        (("--device", "tpu"), 2),
        (("--batch", "1000000000"), 2),
        (("--concurrency", "1000000"), 2),
        (("--threads", "100000"), 2),
        (("--compare", "abacus"), 2),
        (("--scenario", "server"), 2),
        (("--report", "none/x.html"), 1),
        (("--raw",), 2),
        (("--module", "x.py:Net"), 1),
        (("--module", "torch.nn:Identity"), 2),
        (("--baseline", "none.json"), 1),
        (("--max-regression", "5%"), 2),
        pytest.param(("--compare", "onnx:none.onnx"), 1, marks=pytest.mark.slow),
    ),
    "serve": (
        (("--http-port", "70000"), 2),
        (("--http-port", "4711", "--grpc-port", "4711"), 2),
        (("--device", "tpu"), 2),
        (("--device", "cuda"), 5),
        (("--threads", "0"), 2),
        (("--max-delay", "-1"), 2),
        (("--check-every", "0"), 2),
        (("--host", "no.such.host.invalid"), 2),
        (("--engine", "none"), 5),
        (("--rollback",), 1),
        ((ZOO,), 2),
    ),
    "tune": (
        (("--size", "1", "1"), 2),
        (("--size", "3000", "3000"), 2),
        (("--opset", "99"), 2),
        (("--device", "tpu"), 2),
        (("--batch", "100000"), 2),
        (("--duration", "nan"), 2),
        (("--threads", "100000"), 2),
    ),
    "train": (
        (("--size", "1", "1"), 2),
        (("--size", "100000", "100000"), 2),
        (("--device", "tpu"), 2),
        (("--epochs", "0"), 2),
        (("--init", "nothing"), 1),
        (("--resume",), 1),
        (("--seed", "10000000000000000000000"), 2),
    ),
    "deploy": (
        (("--to", "trition", "--out", "x"), 2),
        (("--to", "triton"), 2),
        (("--to", "ray", "--out", "x", "--device", "cuda"), 2),
        (("--to", "triton", "--out", "x", "--fp16"), 2),
        (("--to", "kserve", "--out", "x", "--storage", "models"), 2),
        (("--to", "triton", "--out", "none/x"), 1),
        (("--to", "triton", "--out", "x", "--unbatched", "none.json"), 1),
        (("--check", "x"), 2),
    ),
    "inspect": (
        (("--layer", "features.0"), 2),
        (("--attention", "none.png"), 2),
        (("--attention", "none.png", "--out", "x.png"), 1),
        (("--attention", "none.png", "--out", "x.gif"), 2),
    ),
}


def calls():
    for command, refused in REFUSED.items():
        for entry in refused:
            values, marks = (entry.values, entry.marks) if hasattr(entry, "values") else (entry, ())
            arguments, code = values
            yield pytest.param(command, arguments, code, marks=marks, id=" ".join((command, *arguments)))


@pytest.mark.parametrize(("command", "arguments", "code"), [*calls()])
def test_a_refused_call_leaves_nothing(cli, tmp_path, command, arguments, code):
    error_of(cli(command, ZOO, *arguments), code)
    assert not list(tmp_path.iterdir())


def test_what_is_no_baseline_is_refused_before_anything_is_converted(cli, tmp_path):
    (tmp_path / "old.json").write_text("{}")
    assert "must have the schema" in error_of(cli("serve-bench", ZOO, "--baseline", "old.json"), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.parametrize("command", ["convert", "tune", "train"])
def test_folders_that_were_made_for_a_copy_go_with_it(cli, tmp_path, command, monkeypatch):
    for name in ("pipeline.convert.convert.convert", "pipeline.tune.tune._attentions", "training.run.load_images"):
        monkeypatch.setattr(f"aaexport.{name}", missing)
    outcome = cli(command, ZOO, "--out", "new/folder")
    error_of(outcome, 1)
    assert "removed new/folder again" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_stays_empty(cli, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("aaexport.pipeline.convert.convert.convert", missing)
    error_of(cli("convert", ZOO, "--out", "mine"), 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize("command", ["convert", "verify", "serve-bench"])
def test_a_model_without_weights_is_not_copied_and_the_remedy_names_the_zoos(cli, tmp_path, command):
    error = error_of(cli(command, NO_WEIGHTS, "--out", "new"), 1)
    assert error.endswith(f"train them with `aaexport train {NO_WEIGHTS}`")
    assert not list(tmp_path.iterdir())


def test_every_command_that_copies_is_tried():
    assert REFUSED.keys() == main.COMMANDS.keys() - {"list", "optimize"}


def test_a_device_that_does_not_work_leaves_nothing(cli, tmp_path, monkeypatch):
    from aaexport.errors import ProviderError
    from aaexport.pipeline.bench import serve_bench

    def refuse(*arguments):
        raise ProviderError("device must work here, got cuda; use --device cpu")

    monkeypatch.setattr("aaexport.cli.serve_bench.ensure_converted", converted_by_hand)
    monkeypatch.setattr(serve_bench, "summarize", lambda path: refuse())
    outcome = cli("serve-bench", ZOO, *BENCH)
    error_of(outcome, 5)
    assert "removed aa_cnn3_digits again" in outcome.err
    assert not list(tmp_path.iterdir())


def converted_by_hand(folder, *rest):
    for name in ("model.onnx", "parity.json", "manifest.json"):
        (folder.path / name).write_text("a conversion")


def test_a_data_set_that_is_not_there_leaves_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("aaexport.training.run.load_images", missing)
    error_of(cli("train", ZOO), 1)
    assert not list(tmp_path.iterdir())


def missing(*arguments, **options):
    from aaexport.errors import DataError

    raise DataError("the data set must be here")


def test_a_verdict_keeps_the_folder_that_it_is_of(cli, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise ParityError("parity failed", failed_report())

    monkeypatch.setattr("aaexport.pipeline.convert.convert.convert", fails)
    error_of(cli("convert", ZOO), 3)
    assert (tmp_path / ZOO / "model.toml").is_file()


def failed_report():
    return ParityReport("model.onnx", structure=("the file must hold the model's weights",))


@pytest.mark.parametrize("file", ["notes.txt", "model.toml"])
def test_a_copy_in_which_somebody_worked_stays(cli, tmp_path, monkeypatch, file):
    def fails(folder, *arguments, **options):
        (folder.path / file).write_text("mine")
        raise RuntimeError("a defect")

    monkeypatch.setattr("aaexport.pipeline.convert.convert.convert", fails)
    error_of(cli("convert", ZOO), 1)
    assert (tmp_path / ZOO / file).read_text() == "mine"


def test_memory_that_does_not_hold_it_is_no_defect(cli, converted, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 34359738368 bytes.")

    monkeypatch.setattr("aaexport.pipeline.convert.convert.convert", fails)
    error = error_of(cli("convert", converted.path), 1)
    assert (
        error == "memory must hold what this takes, got 32.0 GiB at once; ask for smaller images or a smaller batch"
    )
