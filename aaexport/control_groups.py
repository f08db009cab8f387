"""The process → its control groups, which may limit its CPU time and its memory (cgroups(7)), of version 1 or 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")  # what the system's files lie below; tests have files of their own


def groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that may limit the `cpu` or `memory` of the process, each with those that it is in."""
    for line in (text_of(ROOT / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mounted, below in _mounts("cgroup" if controllers else "cgroup2", controller):
            inside = PurePosixPath(group)
            # Where a container sees its host's path, what is mounted is its own group or something else altogether.
            steps = (
                inside.relative_to(below).parts if inside.is_relative_to(below) and ".." not in inside.parts else ()
            )
            yield from (mounted.joinpath(*steps[:depth]) for depth in range(len(steps), -1, -1))


def _mounts(kind: str, controller: str) -> Iterator[tuple[Path, str]]:
    """Where control groups of version 2, or the controller of version 1, are mounted, and from which group on."""
    for line in (text_of(ROOT / "proc/self/mountinfo") or "").splitlines():
        mount, _, system = line.partition(" - ")
        below, where = map(_unescaped, mount.split()[3:5])
        name, _, options = system.split(" ", 2)
        if name == kind and (kind == "cgroup2" or controller in options.split(",")):
            yield ROOT / where.lstrip("/"), below


def _unescaped(path: str) -> str:
    r"""As proc(5) writes it: `\040` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def text_of(path: Path) -> str | None:
    """What a file of the system says; None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
