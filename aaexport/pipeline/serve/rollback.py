"""Folders that were served → another of their versions is the one to be served: `aaexport serve --rollback`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TextIO

from aaexport.errors import FolderError, broken_rule
from aaexport.folder import ONNX_FILES, Dtype, ModelFolder
from aaexport.serving.versions import (
    Served,
    change_lock,
    holding,
    read_served,
    served_dtypes,
    version_folder,
    write_served,
)


def rollback(folder: ModelFolder, dtype: Dtype = "float32", to_version: int | None = None) -> tuple[int, int]:
    """As `roll_back`, of one folder."""
    return roll_back([folder], dtype, to_version)[0]


def roll_back(
    folders: Sequence[ModelFolder], dtype: Dtype = "float32", to_version: int | None = None
) -> list[tuple[int, int]]:
    """The version before the current one becomes current, of each folder or of none → (from, to) of each.

    A service that runs follows by itself. Where there is nothing to go back to nothing is written.

    Args:
        folders: each once.
        dtype: the precision that is meant.
        to_version: another that is kept, older or newer: so a rollback is taken back.

    Raises:
        ArgumentError: no such version is kept.
        FolderError: there is none to go back to, another version is just being taken, or a record cannot be written.
    """
    for folder in folders:
        _changed(folder, dtype, to_version)
    with ExitStack() as held:
        changes = []
        for folder in folders:
            held.enter_context(_alone(folder))
            held.enter_context(holding(folder.path))
            changes.append(_changed(folder, dtype, to_version))
        with ExitStack() as undo:
            for folder, (served, back) in zip(folders, changes, strict=True):
                write_served(folder.path, back, dtype)
                undo.callback(write_served, folder.path, served, dtype)
            undo.pop_all()
    return [(_number(served), _number(back)) for served, back in changes]


def _changed(folder: ModelFolder, dtype: Dtype, to_version: int | None) -> tuple[Served, Served]:
    """What is served, and what is to be. Raises as `roll_back`."""
    if folder.is_zoo:
        raise FolderError(broken_rule("rollback", "name a folder that was served", folder.name))
    served = read_served(folder.path, dtype)
    others = served_dtypes(folder.path)
    if others and not served.versions:
        raise FolderError(broken_rule("dtype", f"be one that was served ({', '.join(others)})", dtype))
    back = served.gone_back() if to_version is None else served.gone_to(to_version)
    place = version_folder(folder.path, _number(back))
    if not (place / ONNX_FILES[dtype]).is_file():
        raise FolderError(f"version {back.current} of {folder.path} must be kept in {place}, got none")
    return served, back


def _alone(folder: ModelFolder) -> TextIO:
    lock = change_lock(folder.path, wait=False)
    if lock is None:
        remedy = "say it again when the service has told what came of it"
        raise FolderError(f"rollback must not meet a change of version, got one of {folder.path} under way; {remedy}")
    return lock


def _number(served: Served) -> int:
    assert served.current is not None, "of nothing that was served nothing is gone back from"
    return served.current
