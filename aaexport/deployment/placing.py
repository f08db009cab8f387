"""Files of a deployment → a folder that is there whole or not at all, in the place of nothing that is not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aaexport.deployment.manifest import NAME, differences, files_in, read_manifest
from aaexport.errors import FolderError, broken_rule, first_few, parameter
from aaexport.folder import require_outside_zoo
from aaexport.writing import exists, temporary_folder

NAMED = 5  # files, in a complaint


def require_room(out: Path) -> None:
    """FolderError, before any work, where no deployment could stand: no folder above it, a file, or the zoo's own."""
    require_outside_zoo(out)
    place = _place(out)
    if exists(place) and not place.is_dir():
        raise FolderError(broken_rule("out", "be a folder", f"the file {out}"))
    if not place.parent.is_dir():
        raise FolderError(f"{place.parent} must be a folder, got none; create it first")
    with temporary_folder(place.parent):
        pass


def replaced_files(out: Path, written: Iterable[str] = (), *, force: bool = False) -> tuple[str, ...]:
    """The files in `out` that somebody else's hand is on and that are replaced all the same: none without `force`.

    `written` are the paths that are to be written there, as far as they are known. Files that neither we wrote nor
    are about to write are never replaced.

    Raises:
        FolderError: the folder holds anything but an unchanged deployment, and `force` is not given or not enough.
    """
    place = _place(out)
    there = files_in(place) if place.is_dir() else {}
    if not there and not exists(place / NAME):
        return ()
    try:
        ours = dict(read_manifest(place).files)
    except FolderError:
        ours = {}
    try:
        found = differences(place, ours)
    except OSError as error:
        raise FolderError(f"{error.filename or out} cannot be read: {error.strerror}") from error
    touched = (*found.changed, *(name for name in found.foreign if name in set(written)))
    foreign = [name for name in found.foreign if name not in touched]
    if foreign and (force or not ours):
        told = first_few(foreign, NAMED)
        raise FolderError(f"out must hold nothing but a deployment, got {out} with {told}; name another folder")
    if (touched or foreign) and not force:
        remedy = f"name another folder, or give {parameter('force')} to replace what was changed"
        told = first_few([*touched, *foreign], NAMED)
        rule = "be new, empty, or a deployment that nobody has changed"
        raise FolderError(f"out must {rule}, got {out} with another {told}; {remedy}")
    return tuple(touched)


@contextmanager
def placed(out: Path, again: Callable[[], object]) -> Iterator[Path]:
    """A new folder that takes the place of `out` when the block ends well, and vanishes when it does not.

    `again` is called right before that: it looks whether `out` is still what may be replaced.

    Raises:
        FolderError: nothing can be written there, or `again` raises it.
    """
    place = _place(out)
    with temporary_folder(place.parent) as room:
        new = room / "new"
        new.mkdir()
        yield new
        again()
        try:
            if not exists(place):
                new.rename(place)
                return
            _swap(new, place, room)
        except OSError as error:
            raise FolderError(f"{out} cannot be written: {error.strerror or error}") from error


def _swap(new: Path, place: Path, room: Path) -> None:
    """The old folder steps aside for the new one, and comes back where that fails; it goes with the room."""
    old = room / "old"
    place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        old.rename(place)
        raise


def _place(out: Path) -> Path:
    """Where it really lies: a link stays, and what it names is replaced."""
    return out.resolve()
