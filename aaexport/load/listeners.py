"""A port of this machine → the processes behind it: a service that is measured here is no stranger to the CPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"  # a state of /proc/net/tcp, proc(5)


def processes_behind(port: int) -> tuple[int, ...]:
    """Those that listen on the port and may be seen, and all that they have started; none where no system tells."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(PROC / "net" / table, port)}
    parents = dict(filter(None, map(_parent, PROC.glob("[0-9]*"))))
    found = {process for process in parents if inodes and inodes & _links(PROC / str(process) / "fd")}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return tuple(sorted(found))


def _listening(table: Path, port: int) -> list[str]:
    """The inodes of the sockets that do."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port]


def _parent(process: Path) -> tuple[int, int] | None:
    """A process and its parent; None once it is gone."""
    try:
        stat = (process / "stat").read_text()
    except OSError:
        return None
    return int(process.name), int(stat.rpartition(")")[2].split()[1])


def _links(folder: Path) -> set[str]:
    """Where the files that a process has open lie; nothing of a process of others."""
    found = set()
    with suppress(OSError):
        for link in folder.iterdir():
            with suppress(OSError):  # closed meanwhile, as the folder itself is, which is read
                found.add(str(link.readlink()))
    return found
