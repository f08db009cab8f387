"""served/ in a model folder."""

import re

import pytest

from aaexport.errors import FolderError
from aaexport.serving.versions import (
    KEPT,
    Served,
    Version,
    holding,
    new_version,
    read_served,
    record_path,
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


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "aaexport.served/9"}', '{"schema": "aaexport.served/1"}'])
def test_a_record_that_is_none_is_said(tmp_path, text):
    served_folder(tmp_path).mkdir()
    record_path(tmp_path).write_text(text)
    with pytest.raises(FolderError, match=r"served\.json must"):
        read_served(tmp_path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    served_folder(tmp_path).write_text("in the way")
    with pytest.raises(FolderError, match="served cannot be written"), holding(tmp_path):
        pass
