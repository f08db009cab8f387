"""Streams as people have them: of few characters, or closed; what is said arrives, and no work is lost over it."""

import io
import json
import os
import subprocess
import sys

import pytest
from onnx_files import convolution

from aaexport.cli import main as cli_main
from aaexport.cli.console import settings
from aaexport.cli.streams import prepare_streams
from aaexport.report.printable import BY_SIGNS, encodable
from aaexport.runners.ort import OrtRunner

ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437")


@pytest.fixture
def spoken(monkeypatch):
    """Runs `aaexport …` with streams of an encoding: its exit code, stdout and stderr, as bytes."""

    def run(encoding, *arguments):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["aaexport", *map(str, arguments)])
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", err)
            prepare_streams()
            code = cli_main._run()
            settings.verbose = settings.quiet = False
            out.flush()
            err.flush()
        return code, out.buffer.getvalue(), err.buffer.getvalue()

    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_a_list_is_shown_in_what_characters_there_are(spoken, encoding):
    code, out, err = spoken(encoding, "list")
    assert (code, err) == (0, b"")
    lines = out.decode(encoding).splitlines()
    cross = encodable("×", encoding)
    assert any(line.split()[:1] == ["aa_cnn3_digits"] and f"1{cross}8{cross}8" in line for line in lines)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_is_shown_in_what_characters_there_are(spoken, encoding):
    """click by itself would write UTF-8 to a stream that says it is ASCII."""
    code, out, _ = spoken(encoding, "serve-bench", "--help")
    assert code == 0
    assert "N,N," in out.decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_an_error_is_shown_in_what_characters_there_are(spoken, encoding):
    code, _, err = spoken(encoding, "serve-bench", "x", "--batch", "é,1")
    assert code == 2
    words = encodable("must be numbers ≥ 1 separated by commas, or sweep, got 'é,1'", encoding)
    assert words in err.decode(encoding)


def test_json_is_valid_in_any_encoding(spoken, converted):
    before = converted.path.with_name("mödel × 2")
    converted.path.rename(before)
    code, out, err = spoken("ascii", "inspect", before, "--json")
    assert (code, err) == (0, b"")
    assert json.loads(out)["path"] == str(before)


def test_verify_and_inspect_say_all_they_have_to_say(spoken, converted):
    code, out, _ = spoken("ascii", "verify", converted.path, "--runtimes", "onnxruntime", "--no-locate")
    assert code == 0
    assert out.splitlines()[-1].startswith(b"PASS: largest error ")
    assert b"error / PyTorch's own" in out
    code, out, _ = spoken("ascii", "inspect", converted.path)
    assert code == 0
    assert b"8x8 digits" in out


def test_a_name_that_is_not_even_text_is_shown(spoken):
    """As the name of a file may be that was made with another encoding."""
    code, _, err = spoken("utf-8", "inspect", "\udcff")
    assert code == 1
    assert b"\\udcff" in err


def test_signs_have_forms_of_ascii():
    assert "2 × 3 ÷ 4 – 5 ≥ 6 µs …".encode("ascii", BY_SIGNS) == b"2 x 3 / 4 - 5 >= 6 us ..."
    assert "é → ☃".encode("cp1252", BY_SIGNS) == b"\xe9 -> \\u2603"


@pytest.mark.parametrize("closed", ["1", "0 1 2"])
def test_a_closed_stream_takes_what_is_said(closed, converted):
    """And nothing that is opened later gets its place."""
    close = " ".join(f"{number}>&-" for number in closed.split())
    command = f'exec "{sys.executable}" -m aaexport inspect "{converted.path}" {close}'
    outcome = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_an_error_without_a_stderr_still_has_its_exit_code():
    command = f'exec "{sys.executable}" -m aaexport inspect nowhere 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 1


# Paths in locales that know ASCII alone

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}


def in_ascii(*arguments, **options):
    """`python …` where Python reads paths as ASCII and prints so."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | ASCII, encoding="ascii", **options,
    )  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path, rng):
    """A folder with an accent, in which a small model lies."""
    folder = tmp_path / "modèle"
    folder.mkdir()
    (folder / "né.onnx").write_bytes(convolution(rng))
    return folder


def test_a_path_beyond_ascii_is_read_in_an_ascii_locale(elsewhere):
    outcome = in_ascii("-m", "aaexport", "optimize", elsewhere / "né.onnx", elsewhere / "là.onnx", "--json")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["path"] == str(elsewhere / "là.onnx")
    assert (elsewhere / "là.onnx").is_file()


def test_a_runner_opens_a_path_beyond_ascii_in_an_ascii_locale(elsewhere):
    code = (
        "import sys; from pathlib import Path; from aaexport.runners.ort import OrtRunner\n"
        "assert sys.getfilesystemencoding() != 'utf-8'\n"
        "print(OrtRunner(Path(sys.argv[1])).output_names)"
    )
    outcome = in_ascii("-c", code, elsewhere / "né.onnx")
    assert (outcome.stdout, outcome.stderr) == ("('y',)\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux alone")
def test_a_runner_opens_a_path_that_is_no_text(tmp_path, rng):
    path = tmp_path / os.fsdecode(b"mod\xe8le.onnx")
    path.write_bytes(convolution(rng))
    assert OrtRunner(path).output_names == ("y",)


@pytest.mark.slow
def test_every_verb_works_beyond_ascii_in_an_ascii_locale(converted):
    folder = converted.path.with_name("modèle")
    converted.path.rename(folder)
    for verb in (["convert"], ["verify"], ["serve-bench", "--duration", "0.2", "--warmup", "0.1"], ["inspect"]):
        outcome = in_ascii("-m", "aaexport", *verb, folder)
        assert outcome.returncode in ((0, 4) if verb[0] == "serve-bench" else (0,)), outcome.stderr
        assert "mod\\xe8le" in outcome.stdout or verb == ["verify"]
