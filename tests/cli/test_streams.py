"""Streams as people have them: of few characters, or closed; what is said arrives, and no work is lost over it."""

import io
import json
import subprocess
import sys

import pytest

from aaexport.cli import main as cli_main
from aaexport.cli.console import settings
from aaexport.cli.streams import prepare_streams
from aaexport.report.printable import BY_SIGNS, encodable

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
    words = encodable("must be numbers ≥ 1 separated by commas, got 'é,1'", encoding)
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
