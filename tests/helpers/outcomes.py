"""What a run of the command line left, and the one line by which it failed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def error_of(outcome, code):
    """The one `Error:` line; progress lines may stand before it, a traceback may not."""
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert outcome.err.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("Error: ")
