"""A folder that was served → the version before is the one to be served: `aaexport serve --rollback`."""

from __future__ import annotations

from aaexport.errors import FolderError, broken_rule
from aaexport.folder import ModelFolder
from aaexport.serving.versions import change_lock, holding, read_served, write_served


def rollback(folder: ModelFolder) -> tuple[int, int]:
    """The version before the current one becomes current → (from, to). A service that runs follows by itself.

    FolderError if there is none to go back to, or another version is just being taken.
    """
    if folder.is_zoo:
        raise FolderError(broken_rule("rollback", "name a folder that was served", folder.name))
    lock = change_lock(folder.path, wait=False)
    if lock is None:
        remedy = "say it again when the service has told what came of it"
        raise FolderError(f"rollback must not meet a change of version, got one of {folder.path} under way; {remedy}")
    with lock, holding(folder.path):
        served = read_served(folder.path)
        back = served.gone_back()
        write_served(folder.path, back)
    assert served.current is not None
    assert back.current is not None
    return served.current, back.current
