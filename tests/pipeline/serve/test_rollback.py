"""`aaexport serve --rollback`: which version is to be served, for people and as JSON, and what it leaves alone."""

import json
import shutil

import pytest
from outcomes import error_of

from aaexport.errors import FolderError
from aaexport.pipeline.serve import rollback as pipeline
from aaexport.serving.versions import (
    Served,
    Version,
    read_served,
    record_path,
    served_folder,
    version_folder,
    write_served,
)


@pytest.fixture
def folder(tmp_path):
    """A folder that was served: float32 twice, and int8 once."""
    path = tmp_path / "tiny"
    for number, name in ((1, "model.onnx"), (2, "model.onnx"), (3, "model.int8.onnx")):
        version_folder(path, number).mkdir(parents=True)
        (version_folder(path, number) / name).touch()
    (path / "model.toml").touch()
    one, two, three = (Version(number, f"{number:064x}", "2026-01-31T09:30:00Z") for number in (1, 2, 3))
    write_served(path, Served().with_current(one).with_current(two))
    write_served(path, Served().with_current(three), "int8")
    return path


def test_going_back_and_forward_again(cli, folder):
    assert cli("serve", "--rollback", folder).out == (
        f"{folder}: version 1 is to be served instead of 2; a running service follows\n"
    )
    assert read_served(folder).current == 1
    found = json.loads(cli("serve", "--rollback", "--to-version", "2", folder, "--json").out)
    assert found == {
        "schema": "aaexport.serve/1", "event": "rollback", "name": "tiny", "path": str(folder), "dtype": "float32",
        "from": 1, "to": 2,
    }  # fmt: skip
    assert (read_served(folder).current, read_served(folder).left) == (2, ())
    assert read_served(folder, "int8").current == 3


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("--dtype", "int8"), 1, "must have an older version to go back to, got version 3 alone"),
        (("--dtype", "float16"), 1, "--dtype must be one that was served (float32, int8), got 'float16'"),
        (("--to-version", "3"), 2, "--to-version must be one of the versions that are kept (1, 2), got 3"),
        (("--to-version", "2"), 2, "--to-version must be another than the one that is to be served, got 2"),
        (("--http-port", "9"), 2, "--rollback goes with --to-version, --dtype and --json alone, got --http-port too"),
        (("--watch",), 2, "--rollback goes with --to-version, --dtype and --json alone, got --watch too"),
        (("--no-batching",), 2, "--rollback goes with --to-version, --dtype and --json alone, got --no-batching too"),
    ],
)
def test_what_is_refused_changes_nothing(cli, folder, words, code, error):
    before = record_path(folder).read_bytes()
    assert error in error_of(cli("serve", "--rollback", folder, *words), code)
    assert record_path(folder).read_bytes() == before
    assert sorted(path.name for path in served_folder(folder).iterdir()) == ["1", "2", "3", "served.json"]


def test_a_version_to_go_to_is_of_a_rollback(cli, folder):
    assert "--to-version must go with --rollback, got 2" in error_of(cli("serve", folder, "--to-version", "2"), 2)


def test_a_folder_that_was_never_served_is_left_as_it_is(cli, tmp_path):
    (tmp_path / "model.toml").touch()
    error = error_of(cli("serve", "--rollback", tmp_path, "--json"), 1)
    assert "--rollback must have an older version to go back to, got none that was ever served" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.toml"]


def test_one_of_two_folders_that_cannot_leaves_both_as_they_are(cli, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.toml").touch()
    error_of(cli("serve", "--rollback", folder, other), 1)
    assert read_served(folder).current == 2
    assert "be named once each" in error_of(cli("serve", "--rollback", folder, folder), 2)
    assert "be named once each" in error_of(cli("serve", "--rollback", folder, f"{other}/../{folder.name}"), 2)


def test_of_two_folders_both_stay_where_the_second_cannot_be_written(cli, folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(folder, other)

    def fails_there(path, served, dtype):
        if path == other:
            raise FolderError(f"{path} cannot be written: No space left on device")
        write_served(path, served, dtype)

    monkeypatch.setattr(pipeline, "write_served", fails_there)
    assert "No space left" in error_of(cli("serve", "--rollback", folder, other), 1)
    assert (read_served(folder).current, read_served(folder).left) == (2, ())


def test_a_version_whose_files_are_gone_is_not_gone_back_to(cli, folder):
    (version_folder(folder, 1) / "model.onnx").unlink()
    error = error_of(cli("serve", "--rollback", folder), 1)
    assert f"version 1 of {folder} must be kept in {version_folder(folder, 1)}, got none" in error


def test_a_damaged_record_is_one_line_with_what_mends_it(cli, folder):
    record_path(folder).write_text(record_path(folder).read_text().replace('"number": 1', '"number": "1"'))
    error = error_of(cli("serve", "--rollback", folder), 1)
    assert (
        "served.json must be as `aaexport serve` wrote it, but: number must be a whole number above 0, got '1'"
        in error
    )
    assert "delete that file" in error
