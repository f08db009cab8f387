"""served/ in a model folder."""

import errno
import fcntl
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from aaexport.errors import ArgumentError, FolderError
from aaexport.serving.versions import (
    KEPT,
    Served,
    Version,
    change_lock,
    go_to,
    holding,
    new_version,
    read_served,
    record_path,
    served_dtypes,
    served_folder,
    version_folder,
    write_served,
)


def version(number):
    return Version(number, f"{number:064x}", "2026-01-31T09:30:00Z")


def with_versions(count):
    served = Served()
    for number in range(1, count + 1):
        served = served.with_current(version(number))
    return served


def test_what_is_written_is_read_again(tmp_path):
    served_folder(tmp_path).mkdir()
    served = with_versions(2).gone_back()
    write_served(tmp_path, served)
    assert read_served(tmp_path) == served
    assert (served.current, served.left) == (1, (f"{2:064x}",))


def test_the_last_versions_are_kept_and_files_of_older_ones_go(tmp_path):
    for number in range(1, 6):
        version_folder(tmp_path, number).mkdir(parents=True)
    write_served(tmp_path, with_versions(5))
    kept = [one.number for one in read_served(tmp_path).versions]
    assert kept == [3, 4, 5]
    assert len(kept) == KEPT
    assert sorted(path.name for path in served_folder(tmp_path).iterdir()) == ["3", "4", "5", "served.json"]


def test_the_current_version_is_kept_however_old_it_is(tmp_path):
    served_folder(tmp_path).mkdir()
    old = with_versions(5).with_current(version(1))
    write_served(tmp_path, old)
    assert [one.number for one in read_served(tmp_path).versions] == [1, 3, 4, 5]


def test_a_number_is_given_once_also_if_it_never_came_to_be_served(tmp_path):
    version_folder(tmp_path, 7).mkdir(parents=True)
    assert new_version(tmp_path, with_versions(2), "ab").number == 8


@pytest.mark.parametrize(("count", "got"), [(0, "none that was ever served"), (1, "version 1 alone")])
def test_there_is_nothing_older_to_go_back_to(count, got):
    with pytest.raises(FolderError, match=re.escape(f"rollback must have an older version to go back to, got {got}")):
        with_versions(count).gone_back()


def test_going_back_twice_goes_two_versions_back():
    assert with_versions(3).gone_back().gone_back().current == 1


def test_a_version_that_was_gone_back_from_is_passed_over():
    served = with_versions(2).gone_back().with_current(version(3))
    assert served.gone_back().current == 1


def test_going_back_and_forward_again_is_as_before():
    served = with_versions(3)
    assert served.gone_to(1).left == (f"{2:064x}", f"{3:064x}")
    assert served.gone_to(1).gone_to(3) == replace(served, left=(f"{2:064x}",), over=f"{1:064x}")
    assert served.gone_back().gone_to(3) == replace(served, over=f"{2:064x}")


def test_what_a_version_was_chosen_over_is_known_until_another_is_taken_or_gone_back_to():
    chosen = with_versions(2).with_current(version(1)).gone_to(2)
    assert chosen.over == version(1).onnx_sha256
    assert chosen.with_current(version(2)).over == chosen.over  # that it has come to be served
    assert chosen.with_current(version(3)).over is None
    assert chosen.gone_back().over is None


def test_only_what_is_kept_and_is_not_current_can_be_gone_to():
    with pytest.raises(ArgumentError, match=r"to_version must be one of the versions that are kept \(1, 2\), got 3"):
        with_versions(2).gone_to(3)
    with pytest.raises(ArgumentError, match="to_version must be another than the one that is to be served, got 2"):
        with_versions(2).gone_to(2)


def test_what_was_gone_back_from_may_come_again_once_it_is_no_longer_kept(tmp_path):
    served_folder(tmp_path).mkdir()
    served = with_versions(2).gone_back()
    for number in (3, 4):
        served = served.with_current(version(number))
    write_served(tmp_path, served)
    assert read_served(tmp_path).left == (f"{2:064x}",)
    write_served(tmp_path, served.with_current(version(5)))
    assert read_served(tmp_path).left == ()


def test_each_precision_has_a_record_of_its_own(tmp_path):
    for number in (1, 2, 3, 4):
        version_folder(tmp_path, number).mkdir(parents=True)
    float32, int8 = with_versions(2), Served().with_current(version(3))
    write_served(tmp_path, float32)
    write_served(tmp_path, int8, "int8")
    write_served(tmp_path, float32.gone_back())
    assert read_served(tmp_path, "int8") == int8
    assert read_served(tmp_path) == float32.gone_back()
    assert read_served(tmp_path, "float16") == Served()
    assert new_version(tmp_path, float32, "ab").number == 5
    assert sorted(path.name for path in served_folder(tmp_path).iterdir()) == ["1", "2", "3", "4", "served.json"]


def test_a_record_of_before_precisions_is_told_apart_by_the_files(tmp_path):
    for number, name in ((1, "model.int8.onnx"), (2, "model.onnx"), (3, "model.onnx")):
        version_folder(tmp_path, number).mkdir(parents=True)
        (version_folder(tmp_path, number) / name).touch()
    versions = [asdict(version(number)) for number in (1, 2, 3)]
    old = {"schema": "aaexport.served/1", "versions": versions, "current": 1, "left": [f"{3:064x}", f"{2:064x}"]}
    record_path(tmp_path).write_text(json.dumps(old))
    assert read_served(tmp_path, "int8") == Served((version(1),), 1)
    assert read_served(tmp_path) == Served((version(2), version(3)), 3, (f"{2:064x}",))
    assert served_dtypes(tmp_path) == ("float32", "int8")
    old["left"] = [f"{3:064x}"]
    record_path(tmp_path).write_text(json.dumps(old))
    assert read_served(tmp_path) == Served((version(2), version(3)), 2, (f"{3:064x}",))


def record_of(**changes):
    served = {"versions": [asdict(version(1))], "current": 1, "left": []} | changes
    return json.dumps({"schema": "aaexport.served/2", "by_dtype": {"float32": served}})


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "null", "[" * 99999, '{"schema": "aaexport.served/9"}', '{"schema": "aaexport.served/1"}'),
        *('{"schema": "aaexport.served/2", "by_dtype": 1}', '{"schema": "aaexport.served/2", "by_dtype": {"a": 1}}'),
        record_of(versions=[asdict(version(1)) | {"number": "1"}]),
        record_of(versions=[asdict(version(1)) | {"number": 0}], current=0),
        record_of(versions=[asdict(version(1)) | {"onnx_sha256": 7}]),
        record_of(versions=[asdict(version(1)) | {"more": 7}]),
        record_of(versions=[asdict(version(1))] * 2),
        record_of(versions=[]),
        record_of(versions=["1"]),
        record_of(current=None),
        record_of(current=2),
        record_of(left=[[]]),
        record_of(left=None),
    ],
)
def test_a_record_that_is_none_is_said_with_what_mends_it(tmp_path, text):
    served_folder(tmp_path).mkdir()
    record_path(tmp_path).write_text(text)
    with pytest.raises(FolderError, match=r"\A[^\n]*served\.json must [^\n]*; delete that file[^\n]*\Z"):
        read_served(tmp_path)


def test_the_record_in_a_test_of_those_is_right_but_for_its_change(tmp_path):
    served_folder(tmp_path).mkdir()
    record_path(tmp_path).write_text(record_of())
    assert read_served(tmp_path) == with_versions(1)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    served_folder(tmp_path).write_text("in the way")
    with pytest.raises(FolderError, match="served cannot be written"), holding(tmp_path):
        pass


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    words = f"must be on a disk that has locks, got: {os.strerror(errno.ENOLCK)}"
    with pytest.raises(FolderError, match=words), holding(tmp_path):
        pass
    with pytest.raises(FolderError, match=words):
        change_lock(tmp_path, wait=False)


def test_what_a_user_types_to_choose_a_version_is_one_word_for_the_folder():
    assert go_to(Path("my models/tiny"), 2, "int8") == (
        "aaexport serve --rollback --to-version 2 --dtype int8 'my models/tiny'"
    )
