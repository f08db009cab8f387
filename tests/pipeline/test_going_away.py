"""A model folder that is moved or removed while a verb works on it: an error of the disk, and of nothing else."""

import shutil

import pytest
from outcomes import error_of

from aaexport.pipeline.bench.session import BenchSession
from aaexport.pipeline.convert import convert as conversion
from aaexport.pipeline.tune import tune as tuning
from aaexport.pipeline.verify.matrix import Matrix
from aaexport.training.run import Run

SHORT = ("--device", "cpu", "--duration", "0.1", "--warmup", "0", "--batch", "1", "--compare", "none", "--no-check")
# The command, and what of it is called when the folder goes away.
VERBS = {
    "convert": (("convert",), conversion, "judge_file"),
    "verify": (("verify",), Matrix, "rows"),
    "train": (("train", "--epochs", "1"), Run, "_train"),
}


def move(folder):
    folder.rename(folder.with_name("moved"))


ACCIDENTS = {"moved": move, "removed": shutil.rmtree}


def strays(place):
    """Temporary files and folders, which no verb may leave anywhere."""
    return [path for path in place.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def goes_away(monkeypatch, owner, name, accident, folder):
    real = getattr(owner, name)

    def then(*arguments, **options):
        accident(folder)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, then)


@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS)
@pytest.mark.parametrize(("command", "owner", "name"), VERBS.values(), ids=VERBS)
def test_it_is_an_error_of_the_disk(cli, converted, tmp_path, monkeypatch, command, owner, name, accident):
    goes_away(monkeypatch, owner, name, accident, converted.path)
    error = error_of(cli(*command, converted.path), 1)
    assert "must stay" in error or "cannot be written: No such file or directory" in error
    assert str(converted.path) in error
    assert not strays(tmp_path)


@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS)
def test_a_measurement_that_was_made_is_shown_all_the_same(cli, converted, tmp_path, monkeypatch, accident):
    goes_away(monkeypatch, BenchSession, "measure", accident, converted.path)
    outcome = cli("serve-bench", converted.path, *SHORT)
    assert outcome.code == 0, outcome.err
    assert "the measurement is not kept: " in outcome.out
    assert not strays(tmp_path)


@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS)
def test_choices_that_cannot_be_stored_are_shown_before_the_error(cli, converted, tmp_path, monkeypatch, accident):
    monkeypatch.setattr(tuning, "_contests", lambda *arguments: ())
    goes_away(monkeypatch, tuning, "_contests", accident, converted.path)
    outcome = cli("tune", converted.path, "--duration", "0.01", "--threads", "1")
    assert "attention without the convolution beside it" in outcome.out
    assert "stored in" not in outcome.out
    assert error_of(outcome, 1).startswith("the choices above are not stored: ")
    assert not strays(tmp_path)


def test_a_file_that_is_written_to_meanwhile_is_not_what_was_measured(cli, converted, monkeypatch):
    goes_away(monkeypatch, BenchSession, "measure", lambda folder: (folder / "model.onnx").touch(), converted.path)
    error = error_of(cli("serve-bench", converted.path, *SHORT), 4)
    assert "model.onnx must stay as it is while it is measured" in error
