"""Bad input: one line on stderr that names the thing and the remedy, the right exit code, and nothing lost."""

import os
import resource
import signal
import subprocess
import sys

import onnx
import pytest
import torch
from folders import edited, files_of
from outcomes import error_of
from safetensors.torch import load_file, save_file

from aaexport.folder import checkout


@pytest.mark.parametrize("command", ["train", "convert", "verify", "serve-bench", "tune", "inspect"])
def test_unknown_model(cli, command, tmp_path):
    error = error_of(cli(command, "aa_cnn3_digitz"), 1)
    assert error == "model must be a folder or a zoo name, got 'aa_cnn3_digitz'; did you mean 'aa_cnn3_digits'?"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "convert", "verify", "serve-bench", "tune", "inspect"])
def test_a_folder_without_recipe(cli, command, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty must hold a model.toml" in error_of(cli(command, "empty"), 1)


def test_broken_toml_names_line_and_column(cli, converted):
    converted.recipe_path.write_text("schema = 1\ndescription = 'open\n")
    error = error_of(cli("convert", converted.path), 1)
    assert "model.toml must be TOML" in error
    assert "line 2, column" in error


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num_heads = 2", "num_head = 2", ("[attention] num_head is not a key", "did you mean 'num_heads'?")),
        ("epochs = 30", 'epochs = "many"', ("[training] epochs must be a whole number", "'many'")),
        ("kappa = 0.25", "kappa = -1.0", ("[attention] kappa must be above 0, got -1.0",)),
        ("[data]", "[dato]", ("dato is not a key", "did you mean 'data'?")),
        ('family = "cnn3"', 'family = "cnn4"', ("[network] family", "did you mean 'cnn3'?")),
    ],
)
def test_a_wrong_key_type_or_value_names_the_key(cli, converted, old, new, words):
    edited(converted, old, new)
    before = files_of(converted)
    error = error_of(cli("convert", converted.path), 1)
    for word in words:
        assert word in error
    assert files_of(converted) == before


def spoil_missing(tensors):
    del tensors["features.3.rel_height"]


def spoil_added(tensors):
    tensors["surplus"] = torch.zeros(1)


def spoil_reshaped(tensors):
    tensors["classifier.weight"] = torch.zeros(10, 9)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_missing, ("'features.3.rel_height' is missing",)),
        (spoil_added, ("'surplus' is unexpected",)),
        (spoil_reshaped, ("'classifier.weight' must have the shape (10, 8), got (10, 9)",)),
    ],
)
@pytest.mark.parametrize("command", ["convert", "verify"])
def test_weights_that_do_not_fit_name_the_tensor(cli, converted, spoil, words, command):
    tensors = load_file(converted.weights_path)
    spoil(tensors)
    save_file(tensors, converted.weights_path)
    before = files_of(converted)
    error = error_of(cli(command, converted.path), 1)
    for word in words:
        assert word in error
    assert files_of(converted) == before


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_weights_that_are_no_whole_safetensors(cli, converted, content):
    whole = converted.weights_path.read_bytes()
    converted.weights_path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    before = files_of(converted)
    assert "weights.safetensors must be a whole safetensors file" in error_of(cli("convert", converted.path), 1)
    assert files_of(converted) == before


@pytest.mark.parametrize("command", ["verify", "serve-bench", "inspect"])
@pytest.mark.parametrize("content", [b"", b"not ONNX at all", None])
def test_an_onnx_file_that_is_truncated(cli, converted, command, content):
    whole = converted.onnx_path.read_bytes()
    converted.onnx_path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    before = files_of(converted)
    assert "model.onnx must be a whole ONNX file" in error_of(cli(command, converted.path), 1)
    assert files_of(converted) == before


def test_an_onnx_file_that_is_not_there(cli, converted):
    assert "nowhere.onnx must be a whole ONNX file" in error_of(
        cli("verify", converted.path, "--onnx", "nowhere.onnx"), 1
    )


def with_foreign_operator(folder):
    model = onnx.load(folder.onnx_path)
    model.graph.node[-1].domain = "com.acme"
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    onnx.save(model, folder.onnx_path)


def test_verify_fails_on_a_foreign_operator(cli, converted):
    with_foreign_operator(converted)
    error = error_of(cli("verify", converted.path), 3)
    assert "operators must be of ai.onnx, got com.acme." in error


def test_serve_bench_cannot_load_a_foreign_operator(cli, converted):
    with_foreign_operator(converted)
    assert "onnxruntime cannot load the model" in error_of(cli("serve-bench", converted.path), 1)


def test_inspect_shows_a_foreign_operator(cli, converted):
    with_foreign_operator(converted)
    outcome = cli("inspect", converted.onnx_path)
    assert outcome.code == 0
    assert "com.acme." in outcome.out


def test_out_inside_a_file(cli, tmp_path):
    (tmp_path / "taken").write_text("mine")
    error = error_of(cli("convert", "aa_cnn3_digits", "--out", tmp_path / "taken" / "x"), 1)
    assert "cannot be written" in error
    assert (tmp_path / "taken").read_text() == "mine"


def test_out_that_holds_something_else(cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    error = error_of(cli("convert", "aa_cnn3_digits", "--out", tmp_path / "mine"), 1)
    assert "out must be a new or empty folder" in error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_out_where_not_even_root_may_write(cli):
    assert "/proc/aaexport cannot be written" in error_of(
        cli("convert", "aa_cnn3_digits", "--out", "/proc/aaexport"), 1
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(cli, converted):
    converted.path.chmod(0o500)
    try:
        assert "cannot be written" in error_of(cli("convert", converted.path), 1)
    finally:
        converted.path.chmod(0o700)


@pytest.fixture
def file_size_limit():
    """Sets what stands in for a full disk: both end in an OSError in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_old_file(cli, converted, file_size_limit):
    before = files_of(converted)
    file_size_limit(converted.onnx_path.stat().st_size // 2)
    error = error_of(cli("convert", converted.path, "--no-verify"), 1)
    assert error.startswith(f"{converted.onnx_path} cannot be written: ")
    assert files_of(converted) == before


def test_no_weights_yet_says_how_to_train(cli, tmp_path):
    folder = checkout("resnet20_cifar10", tmp_path / "plain")
    for command in ("convert", "verify", "serve-bench"):
        error = error_of(cli(command, folder.path), 1)
        assert "has no weights.safetensors yet; train them with `aaexport train" in error
    assert [path.name for path in folder.path.iterdir()] == ["model.toml"]


@pytest.mark.parametrize("opset", [99, 17, 26])
def test_an_opset_that_torch_does_not_write(cli, converted, opset):
    before = files_of(converted)
    error = error_of(cli("convert", converted.path, "--opset", opset), 2)
    assert error.startswith(f"--opset must be between 18 and 25, got {opset}; ")
    assert files_of(converted) == before


@pytest.mark.parametrize("command", ["train", "verify", "serve-bench"])
def test_cuda_where_there_is_none(cli, converted, command):
    from aaexport.runners.ort import best_device

    if best_device() == "cuda":
        pytest.skip("CUDA works here")
    before = files_of(converted)
    error = error_of(cli(command, converted.path, "--device", "cuda"), 5)
    assert "--device cpu" in error
    assert files_of(converted) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "x", "--opset", "twenty"), "'twenty' is not a valid integer"),
        (("convert", "x", "--batch", "0"), "--batch must be dynamic or at least 1, got '0'"),
        (("convert", "x", "--decomposition", "skewed"), "'skewed' is not one of"),
        (("convert", "x", "--optset", "20"), "No such option"),
        (
            ("serve-bench", "x", "--batch", "1,zero"),
            "--batch must be numbers ≥ 1 separated by commas, or sweep, got '1,zero'",
        ),
        (("serve-bench", "x", "--scenario", "burst"), "--scenario must be one of single-stream"),
        (("verify",), "Missing argument 'MODEL'"),
        (("convrt", "x"), "No such command 'convrt'"),
        (("--verbose", "--quiet", "list"), "contradict"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli, arguments, words):
    assert words in error_of(cli(*arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--atol", "-1"), "--atol must be at least 0 and finite, got -1.0"),
        (("--rtol", "nan"), "--rtol must be at least 0 and finite, got nan"),
        (("--device", "tpu"), "--device must be cpu, cuda or cuda:N, got 'tpu'"),
    ],
)
def test_wrong_values_of_verify(cli, converted, arguments, words):
    assert words in error_of(cli("verify", converted.path, *arguments), 2)


def test_wrong_values_of_serve_bench(cli, converted):
    error = error_of(cli("serve-bench", converted.path, "--duration", "0"), 2)
    assert error == "--duration must be above 0 and at most 86,400 seconds, got 0.0"


def interrupted(arguments, when, number):
    """Runs `aaexport …` and sends the signal after the line that begins with `when`: code, rest of stderr."""
    command = [sys.executable, "-m", "aaexport", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith(when):
                process.send_signal(number)
                break
        rest = process.stderr.read()
        return process.wait(), rest


def test_no_command_shows_the_help(cli):
    outcome = cli()
    assert outcome.code == 2
    assert "Commands:" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_convert_leaves_the_old_file_and_no_other(converted, number):
    before = files_of(converted)
    code, error = interrupted(["convert", str(converted.path)], "converting to ONNX", number)
    assert code == 130
    assert error.splitlines()[-1] == "Error: interrupted: no unfinished file was left behind"
    assert files_of(converted) == before


def test_an_interrupt_that_passed_through_an_exec_keeps_the_exit_code(tmp_path):
    """As one does that comes while a module with dataclasses is imported."""
    script = """
from aaexport.cli import main

def interrupted():
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        return main.INTERRUPTED

main._run = interrupted
main.main()
"""
    (tmp_path / "interrupted.py").write_text(script)
    assert subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, check=False).returncode == 130


@pytest.mark.slow
def test_an_interrupted_training_says_how_to_go_on(converted):
    code, error = interrupted(["train", str(converted.path), "--epochs", "50"], "epoch   1/50", signal.SIGINT)
    assert code == 130
    assert f"go on with `aaexport train {converted.path} --epochs 50 --resume`" in error.splitlines()[-1]


def test_failed_parity_keeps_the_old_file(cli, converted, monkeypatch):
    """A fault in the decomposition that is exported: the query is scaled wrongly by a hundredth."""
    from aaexport.nn import relative

    before = files_of(converted)
    monkeypatch.setitem(relative.DECOMPOSITIONS, "fold", lambda q, *rest: relative.fold(q * 1.01, *rest))
    outcome = cli("convert", converted.path)
    assert "parity failed" in error_of(outcome, 3)
    assert "FAIL" in outcome.out
    assert files_of(converted) == before


def test_the_zoo_itself_is_never_worked_in(cli, monkeypatch):
    from aaexport.folder import zoo_root

    monkeypatch.chdir(zoo_root())
    before = sorted(zoo_root().rglob("*"))
    for arguments in (("resnet20_cifar10", "--random-weights"), ("aa_cnn3_digits", "--out", "new")):
        assert "out must lie outside the zoo" in error_of(cli("convert", *arguments), 1)
    assert sorted(zoo_root().rglob("*")) == before


def test_half_a_copy_does_not_stand_in_the_way(cli, monkeypatch, tmp_path):
    from aaexport import folder

    def fails(source, target):
        if source.name == "weights.safetensors":
            raise OSError(28, "No space left on device")
        target.write_bytes(source.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(folder.shutil, "copyfile", fails)
        assert "No space left on device" in error_of(cli("convert", "aa_cnn3_digits"), 1)
    assert not list(tmp_path.iterdir())


def test_wrong_options_are_refused_before_anything_is_copied(cli, tmp_path):
    for arguments in (("serve-bench", "--duration", "-1"), ("verify", "--device", "tpu"), ("verify", "--atol", "-1")):
        error_of(cli(arguments[0], "aa_cnn3_digits", *arguments[1:]), 2)
    assert not list(tmp_path.iterdir())


def test_a_name_too_long_for_a_file_is_an_unknown_model(cli):
    assert "model must be a folder or a zoo name" in error_of(cli("convert", "x" * 300), 1)


def test_attention_that_does_not_fit_the_network_is_an_error_of_the_recipe(cli, converted):
    edited(converted, "upsilon = 0.25", "upsilon = 0.01")
    error = error_of(cli("convert", converted.path), 1)
    recipe = "'Three attention-augmented convolutions, 8×8 digits'"
    assert error.startswith(f"{recipe}: [network] and [attention] must fit: upsilon must give each of 2 heads")


def test_a_seed_beyond_what_a_generator_takes(cli, converted):
    assert "--seed" in error_of(cli("verify", converted.path, "--seed", 10**30), 2)


def test_a_full_disk_below_stdout(converted):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        outcome = subprocess.run(
            [sys.executable, "-m", "aaexport", "inspect", str(converted.path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert outcome.returncode == 1
    assert outcome.stderr == "Error: the output cannot be used: No space left on device\n"


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("verify", "--batch", "{}"),
        ("convert", "--batch", "{}"),
        ("convert", "--input-shape", "1x{}x8"),
        ("serve-bench", "--batch", "1,{}"),
        ("serve-bench", "--dim", "n={}"),
    ],
)
def test_a_number_longer_than_any_is_refused_as_the_wrong_value_it_is(cli, command, option, value):
    assert f"{option} must " in error_of(cli(command, "aa_cnn3_digits", option, value.format("1" * 5000)), 2)
