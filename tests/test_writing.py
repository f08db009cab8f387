"""Files that are there whole or not at all, also where their folder is moved or removed meanwhile."""

import json
import math
import os
import shutil

import pytest

from aaexport.errors import ArgumentError, FolderError, ParityError
from aaexport.writing import (
    atomic_path,
    blaming_changes,
    check_writable,
    new_files,
    temporary_folder,
    unchanged,
    write_json,
)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def target(tmp_path):
    """An old file in a folder of its own."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "file.txt"
    path.write_text("old")
    return path


def test_an_atomic_write_replaces_the_old_content(target):
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert contents(target.parent) == {"file.txt": b"new"}


def test_the_old_content_stands_until_the_block_ends(target):
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"


@pytest.mark.parametrize("accident", [KeyboardInterrupt, ValueError])
def test_an_accident_keeps_the_old_content_and_leaves_no_temporary_file(target, accident):
    with pytest.raises(accident), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise accident
    assert contents(target.parent) == {"file.txt": b"old"}


def test_a_full_disk_is_a_folder_error_that_keeps_the_old_content(target):
    with pytest.raises(FolderError, match=r"file\.txt cannot be written: No space left on device"):
        write_on_a_full_disk(target)
    assert contents(target.parent) == {"file.txt": b"old"}


def write_on_a_full_disk(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")


def test_an_atomic_write_is_as_readable_as_any_new_file(target):
    plain = target.with_name("plain.txt")
    plain.write_text("")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("name", ["none/file.txt", "file/file.txt"], ids=["missing folder", "below a file"])
def test_an_atomic_write_where_no_folder_is_is_refused_by_path(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError) as refusal, atomic_path(tmp_path / name):
        pytest.fail("there is nowhere to write")
    assert str(refusal.value).startswith(f"{tmp_path / name} cannot be written: ")


def test_an_atomic_write_onto_a_folder_is_refused_and_leaves_no_temporary_file(tmp_path):
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(FolderError, match="a_folder cannot be written"), atomic_path(tmp_path / "a_folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a_folder"]


def test_an_atomic_write_through_a_link_replaces_what_it_names(target, tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    check_writable(link)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert contents(target.parent) == {"file.txt": b"new"}


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_path(pipe) as temporary:
        temporary.write_text("new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert pipe.is_fifo()


def test_json_is_written_as_it_is_read(target):
    value = {"schema": "x/1", "numbers": [1, 2.5], "text": "κ", "none": None}
    write_json(target, value)
    assert json.loads(target.read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_what_it_has_no_word_for(target, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"deep": [value]})
    assert contents(target.parent) == {"file.txt": b"old"}


@pytest.mark.parametrize("name", ["none/model.onnx", "file/model.onnx"], ids=["missing folder", "below a file"])
def test_a_file_that_could_not_be_written_is_refused_beforehand(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError, match="must be a folder, got none"):
        check_writable(tmp_path / name)


def test_a_folder_in_place_of_a_file_is_refused_beforehand(tmp_path):
    with pytest.raises(ArgumentError, match="path must name a file, got the folder"):
        check_writable(tmp_path)


def test_the_check_beforehand_leaves_nothing(tmp_path):
    check_writable(tmp_path / "model.onnx")
    assert contents(tmp_path) == {}


# Taking back


@pytest.mark.parametrize("accident", [KeyboardInterrupt, ValueError])
def test_what_is_new_goes_again_after_an_accident(tmp_path, accident):
    with pytest.raises(accident), new_files([tmp_path / "deep/er/a", tmp_path / "deep/b"]):
        (tmp_path / "deep/er/a").write_text("half")
        raise accident
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays_after_an_accident(target):
    with pytest.raises(ValueError, match="bad"), new_files([target, target.with_name("new")]):
        target.with_name("new").write_text("half")
        raise ValueError("bad")
    assert contents(target.parent) == {"file.txt": b"old"}


def test_what_somebody_else_wrote_meanwhile_stays_after_an_accident(tmp_path):
    with pytest.raises(ValueError, match="bad"), new_files([tmp_path / "deep/er/a"]):
        (tmp_path / "deep/theirs").write_text("theirs")
        raise ValueError("bad")
    assert contents(tmp_path / "deep") == {"theirs": b"theirs"}


def test_what_is_new_stays_where_all_goes_well(tmp_path):
    with new_files([tmp_path / "deep/a"]):
        (tmp_path / "deep/a").write_text("whole")
    assert contents(tmp_path / "deep") == {"a": b"whole"}


def test_folders_that_cannot_all_be_made_are_taken_back(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(FolderError, match="below cannot be written"),
        new_files([tmp_path / "new/a", tmp_path / "file/below/b"]),
    ):
        pytest.fail("there is nowhere to write")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# A folder that is moved or removed meanwhile


def move(folder):
    folder.rename(folder.with_name("moved"))


ACCIDENTS = {"moved": move, "removed": shutil.rmtree}
FAILURES = {
    "nothing fails": None,
    "a verdict": ParityError("it computes something else", None),
    "an error": ValueError(),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS)
def test_a_folder_that_goes_away_is_the_error_whatever_came_of_it(target, accident, failure):
    rule = "must stay where it is until file.txt is written, got a folder that was moved or removed; run it again"
    with pytest.raises(FolderError) as refusal, atomic_path(target) as temporary:
        temporary.write_text("new")
        accident(target.parent)
        if failure is not None:
            raise failure
    assert str(refusal.value) == f"{target.parent} {rule}"
    assert [path.name for path in target.parent.parent.rglob("*") if path.is_file()] == ["file.txt"] * (
        accident is move
    )


@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS)
def test_an_interrupt_stays_one_and_leaves_no_temporary_file(target, accident):
    with pytest.raises(KeyboardInterrupt), atomic_path(target):
        accident(target.parent)
        raise KeyboardInterrupt
    assert not list(target.parent.parent.rglob(".*"))


@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS)
@pytest.mark.parametrize("failure", [None, ValueError()], ids=["nothing fails", "an error"])
def test_a_temporary_folder_goes_wherever_its_own_is(target, accident, failure):
    def work():
        with temporary_folder(target.parent) as room:
            (room / "inside").write_text("half")
            accident(target.parent)
            if failure is not None:
                raise failure

    if failure is None:
        work()
    else:
        with pytest.raises(FolderError, match="must stay where it is"):
            work()
    assert not [
        path for path in target.parent.parent.rglob("*") if path.name.startswith(".") or path.name == "inside"
    ]


def test_a_temporary_folder_where_nothing_can_be_written_is_refused(tmp_path):
    with pytest.raises(FolderError, match="none cannot be written"), temporary_folder(tmp_path / "none"):
        pytest.fail("there is nowhere to write")


def replace(path):
    shutil.copy(path, path.with_name("another"))
    path.with_name("another").replace(path)


CHANGES = {
    "removed": (lambda path: path.unlink(), "moved or removed"),
    "moved": (lambda path: move(path.parent), "moved or removed"),
    "written": (lambda path: path.write_text("another text"), "written to"),
    "replaced": (
        lambda path: shutil.copy(path, path.with_name("x")) and path.with_name("x").replace(path),
        "written to",
    ),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_what_became_of_a_file_is_the_error_of_whoever_works_on_it(target, change, words):
    with pytest.raises(FolderError) as refusal, blaming_changes(target, "judged"):
        change(target)
        raise ValueError("it is not whole")
    assert str(refusal.value).startswith(
        f"{target} must stay as it is while it is judged, got a file that was {words}"
    )


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_what_was_found_of_a_file_that_is_gone_counts_for_nothing(target, change, words):
    with pytest.raises(FolderError, match=words), unchanged(target, "judged"):
        change(target)


def test_a_file_that_stays_leaves_errors_as_they_are(target):
    with unchanged(target, "judged"):
        pass
    with pytest.raises(ValueError, match="its own"), unchanged(target, "judged"):
        raise ValueError("its own")
    with pytest.raises(ValueError, match="its own"), blaming_changes(target.with_name("none"), "judged"):
        raise ValueError("its own")
