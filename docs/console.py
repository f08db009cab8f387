"""A page's console blocks → their commands, run in a terminal of 80 columns, and what each printed.

    python docs/console.py [--skip-slow] [--fill] [PAGE …]     writes what the commands print now into the pages

A block of ```console is a promise: every line that begins with `$ ` is run by bash, in order, in a new folder that
the whole page shares, and what stands below it is what it prints. Blocks of ```sh promise nothing: they hold what
cannot be run everywhere. Comments before a block, which no reader sees, say what is to be there first:

    <!-- console: files examples/08_bring_your_own_model/*.py -->      these lie in the page's folder
    <!-- console: before aaexport convert aa_cnn3_digits -->           this was run, and is not shown
    <!-- console: slow -->                                             the next block takes more than half a minute
    <!-- console: slow page -->                                        so does the page, with its Python
    <!-- console: exit 3 -->                                           its last command ends with this code
    <!-- console: write net.py -->                                     the next block of Python is this file

Blocks of ```python are one program a page, run at its end.

What begins alike is run once: the state of a folder is known by the commands that were run in it.
"""

from __future__ import annotations

import argparse
import difflib
import fcntl
import itertools
import os
import pty
import re
import selectors
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COLUMNS = 80
ELISION = "…"
# What a measurement says that other processes have spoilt.
STARVED = "of the CPU must be left to the measurement"
NO_VERDICT = "no verdict on a regression"
NO_BASELINE = "must be a valid measurement, got 'an invalid one'"  # of a first measurement that others starved
BLOCK = re.compile(
    r"^<!-- console: (?P<order>.+?) -->$|^```(?P<language>console|python)\n(?P<block>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MEASURES = re.compile(r"aaexport (serve-bench|train|tune)\b")
FACTS = ("opset ", "operators ", "rules ", "replaced ", "before ", "after ", "attention ")
# Lines that tell of the machine, and of what else it was doing: they need not come again.
OF_THE_MACHINE = re.compile(
    r"warning:|^VALID|^÷ ours|withheld|CPU stolen|× as fast as|load average|^machine |^versions |^ {12}|"
    r"took +[0-9]|images/s|pairs of blocks|no (real )?regression"
)


@dataclass(frozen=True)
class Command:
    """One line after `$ `, where it stands in its page, and what is shown below it."""

    text: str
    shown: tuple[str, ...] = ()
    line: int = 0
    slow: bool = False
    code: int = 0


@dataclass(frozen=True)
class Page:
    """What one page needs and runs. `commands` holds those that are not shown, too, as line 0.

    `files` are patterns in the repository, `written` (name, text) of files that the page itself shows, `python` its
    program, and `slow` is whether that takes long.
    """

    path: Path
    files: tuple[str, ...]
    written: tuple[tuple[str, str], ...]
    commands: tuple[Command, ...]
    python: str
    slow: bool = False

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


@dataclass(frozen=True)
class Outcome:
    """What a command printed, stdout and stderr as they came, and its exit code."""

    printed: str
    code: int


def pages() -> list[Page]:
    """Every page that a reader may open, with its commands."""
    return [read_page(path) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))]


def read_page(path: Path) -> Page:
    """The page at `path`. ValueError for a comment that is no order."""
    text = path.read_text(encoding="utf-8")
    reader = _Reader()
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        try:
            if found["order"]:
                reader.order(*found["order"].partition(" ")[::2])
            elif found["language"] == "console":
                reader.console(found["block"], line)
            else:
                reader.program(found["block"])
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {error}") from error
    files, written = tuple(reader.files), tuple(reader.written)
    commands = tuple(replace(command, slow=command.slow or reader.slow_page) for command in reader.commands)
    return Page(path, files, written, commands, "\n".join(reader.python), reader.slow_page or reader.slow_python)


class _Reader:
    """Collects what a page says, block by block; orders hold for the block that follows."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.written: list[tuple[str, str]] = []
        self.commands: list[Command] = []
        self.python: list[str] = []
        self.slow, self.slow_page, self.slow_python, self.code, self.name = False, False, False, 0, ""

    def order(self, order: str, rest: str) -> None:
        if order == "files":
            self.files += rest.split()
        elif order == "before":
            self.commands.append(Command(rest, slow=self.slow))
        elif order == "slow" and rest in ("", "page"):
            self.slow, self.slow_page = not rest, self.slow_page or bool(rest)
        elif order == "exit":
            self.code = int(rest)
        elif order == "write":
            self.name = rest
        else:
            raise ValueError(f"a comment must be files, before, slow, exit or write, got {order!r}")

    def console(self, block: str, line: int) -> None:
        self.commands += _commands(block, line, slow=self.slow, code=self.code)
        self.slow, self.code = False, 0

    def program(self, block: str) -> None:
        if self.name:
            self.written.append((self.name, block))
            self.name = ""
        else:
            self.python.append(block)
            self.slow_python |= self.slow
            self.slow = False


def _commands(block: str, line: int, *, slow: bool, code: int) -> list[Command]:
    found: list[Command] = []
    for number, text in enumerate(block.splitlines(), start=line + 1):
        if text.startswith("$ "):
            found.append(Command(text.removeprefix("$ "), (), number, slow))
        elif not found:
            raise ValueError(f"line {number}: a console block must begin with a command, got {text!r}")
        else:
            found[-1] = replace(found[-1], shown=(*found[-1].shown, text))
    return [*found[:-1], replace(found[-1], code=code)]


class Terminal:
    """Runs the commands of pages, each page in a folder of its own; a state that was reached before is copied.

    `python` is whose aaexport they mean, `source` the folder of the package, None where it is installed.
    """

    def __init__(self, home: Path, python: str = sys.executable, source: Path | None = ROOT) -> None:
        self.home, self.source = home, source
        self.bin = home / "bin"
        self.bin.mkdir(parents=True)
        # As pip writes it, so that completion knows its name.
        entry = f"#!{python}\nfrom aaexport.cli.main import main\n\nmain()\n"
        for name, text in (("aaexport", entry), ("python", f'#!/bin/sh\nexec "{python}" "$@"\n')):
            script = self.bin / name
            script.write_text(text, encoding="utf-8")
            script.chmod(0o755)
        self.states: dict[tuple[object, ...], tuple[Path, Outcome]] = {}

    def run(self, page: Page, command: Command) -> Outcome:
        """What `command` prints after all that stand before it in its page."""
        upto = page.commands.index(command) + 1
        _, outcome = self._state(page, tuple(one.text for one in page.commands[:upto]))
        return outcome

    def folder(self, page: Page) -> Path:
        """A copy of the page's folder as its commands left it, but for those that take long."""
        left, _ = self._state(page, tuple(one.text for one in page.commands if page.slow or not one.slow))
        return self._copied(left)

    def _state(self, page: Page, commands: tuple[str, ...]) -> tuple[Path, Outcome]:
        key = (page.files, page.written, commands)
        if key not in self.states:
            self.states[key] = self._reached(page, commands)
        return self.states[key]

    def _reached(self, page: Page, commands: tuple[str, ...]) -> tuple[Path, Outcome]:
        if commands:
            before, _ = self._state(page, commands[:-1])
            folder = self._copied(before)
            return folder, self._ran(commands[-1], folder)
        folder = self._new()
        for pattern in page.files:
            found = sorted(ROOT.glob(pattern))
            if not found:
                raise ValueError(f"console: files must name files of the repository, got {pattern!r}")
            for file in found:
                shutil.copy(file, folder)
        for name, text in page.written:
            (folder / name).write_text(text, encoding="utf-8")
        return folder, Outcome("", 0)

    def _new(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.home))

    def _copied(self, folder: Path) -> Path:
        return Path(shutil.copytree(folder, self._new(), dirs_exist_ok=True, symlinks=True))

    def _ran(self, command: str, folder: Path) -> Outcome:
        environment = {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(self.source or "")}
        return run_in_terminal(["bash", "-c", command], folder, environment)


def run_in_terminal(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], columns: int = COLUMNS
) -> Outcome:
    """Runs it with stdout on a terminal of so many columns, without colours; stderr is a pipe, so nothing moves."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # a new line stays one character
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    settings = os.environ | {"COLUMNS": str(columns), "TERM": "dumb"} | environment
    process = subprocess.Popen(
        command, cwd=folder, env=settings, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    assert process.stderr is not None
    printed = b"".join(_chunks(ours, process.stderr.fileno()))
    code = process.wait()
    process.stderr.close()
    os.close(ours)
    lines = printed.decode().splitlines()
    return Outcome("".join(f"{line.rstrip()}\n" for line in lines), code)


def _chunks(out: int, err: int) -> Iterator[bytes]:
    """What comes out of both, as it comes, until both are closed."""
    with selectors.DefaultSelector() as selector:
        selector.register(err, selectors.EVENT_READ)
        selector.register(out, selectors.EVENT_READ)
        while selector.get_map():
            ready = {key.fd for key, _ in selector.select()}
            for fd in (err, out):
                if fd not in ready:
                    continue
                try:
                    chunk = os.read(fd, 65536)
                except OSError:  # Linux says so that no writer is left on a terminal
                    chunk = b""
                if not chunk:
                    selector.unregister(fd)
                yield chunk


def words_of(line: str) -> set[str]:
    """What of a line must be the same every time: its words, not its numbers."""
    return set(re.findall(r"[A-Za-z_]{3,}", line))


def differences(command: Command, outcome: Outcome) -> list[str]:
    """What is shown and no longer printed so, and what is printed and not shown, a line each.

    Of a measurement the words of the shown lines are looked for; of all else every line counts, in its order, and so
    do the numbers of facts of a file, such as how many operators it has.
    """
    if not command.shown:
        return []
    if MEASURES.search(command.text):
        printed = words_of(outcome.printed)
        calm = itertools.takewhile(lambda line: not line.startswith("warning:"), command.shown)  # verdict and all
        return [line for line in calm if not OF_THE_MACHINE.search(line) and not words_of(line) <= printed]
    wanted, got = comparable(command.shown), comparable(outcome.printed.splitlines())
    if ELISION not in wanted:
        return [
            line for line in difflib.unified_diff(wanted, got, lineterm="", n=0) if line[:3] not in ("---", "+++")
        ]
    rest = iter(got)
    return [f"-{line}" for line in wanted if line != ELISION and line not in rest]


def comparable(lines: Sequence[str]) -> list[str]:
    """Lines with one blank for many and # for numbers, but in facts of a file, whose numbers stay."""
    found, exact = [], False
    for line in lines:
        if line.strip():
            exact = line.startswith(FACTS) or (exact and line.startswith(" "))
            text = re.sub("─+", "─", " ".join(line.split()))
            found.append(text if exact else re.sub(r"\d+", "#", text))
    return found


def as_shown(command: Command, outcome: Outcome, *, fill: bool = False) -> list[str]:
    """The lines to show for what was printed now: all of them, or, where some were left out, those that stand there.

    A command with nothing shown below it stays so, unless `fill`.

    ValueError: a line that was shown beside an elision is not printed any more.
    """
    printed = outcome.printed.rstrip("\n").splitlines()
    if ELISION not in (line.strip() for line in command.shown):
        return printed if command.shown or fill else []
    kept: list[str] = []
    rest = printed
    for line in command.shown:
        if line.strip() == ELISION:
            kept.append(line)
            continue
        at = next((at for at, new in enumerate(rest) if _alike(line, new)), None)
        if at is None:
            raise ValueError(f"`{command.text}` no longer prints: {line}")
        if at > 0 and kept and kept[-1].strip() != ELISION:
            kept.append(ELISION)
        kept.append(rest[at])
        rest = rest[at + 1 :]
    return kept


def _alike(old: str, new: str) -> bool:
    if words_of(old):
        return words_of(old) == words_of(new)
    return comparable([old]) == comparable([new])


def rewrite(page: Page, terminal: Terminal, *, skip_slow: bool, fill: bool) -> bool:
    """Writes what the page's commands print now into it; returns whether anything changed."""
    before = page.path.read_text(encoding="utf-8")
    lines = before.split("\n")
    for command in reversed(page.commands):
        if not command.line or (command.slow and skip_slow):
            continue
        outcome = terminal.run(page, command)
        if STARVED in outcome.printed or NO_VERDICT in outcome.printed:
            print(f"{page}:{command.line}: left as it is, the machine was not quiet", flush=True)
            continue
        if outcome.code != command.code:
            raise ValueError(f"{page}:{command.line}: ended with {outcome.code}:\n{outcome.printed}")
        lines[command.line : command.line + len(command.shown)] = as_shown(command, outcome, fill=fill)
    text = "\n".join(lines)
    if page.path.read_text(encoding="utf-8") != before:
        raise ValueError("somebody has changed the page meanwhile")
    if text == before:
        return False
    page.path.write_text(text, encoding="utf-8")
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Writes what the commands of the pages print now into them.")
    parser.add_argument("pages", nargs="*", type=Path, help="all of them by default")
    parser.add_argument("--skip-slow", action="store_true", help="leave blocks alone that take long")
    parser.add_argument("--fill", action="store_true", help="show what commands print that show nothing yet")
    given = parser.parse_args()
    chosen = [read_page(path.resolve()) for path in given.pages] or pages()
    failed = False
    with tempfile.TemporaryDirectory() as home:
        terminal = Terminal(Path(home) / "terminal")
        for page in chosen:
            try:
                changed = rewrite(page, terminal, skip_slow=given.skip_slow, fill=given.fill)
            except ValueError as error:
                print(f"{page}: {error}", file=sys.stderr, flush=True)
                failed = True
            else:
                print(f"{page}: {'written anew' if changed else 'as it was'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
