"""Two sides that are measured in turns → pairs of numbers, and the row of a table that their ratios make."""

import statistics
import sys


def pairs(measure, first, second, count):
    """`count` pairs [of the first side, of the second] of what `measure` finds of each.

    The sides take turns, and who goes first changes: both see the machine's moods alike.
    """
    found = []
    for number in range(count):
        turns = ("first", "second") if number % 2 == 0 else ("second", "first")
        numbers = {turn: measure(first if turn == "first" else second) for turn in turns}
        found.append([numbers["first"], numbers["second"]])
    return found


def ratio(what, pairs, /, **raw):
    """The row of first ÷ second, pair by pair."""
    return row(what, [first / second for first, second in pairs], **raw)


def row(what, values, /, **raw):
    """Median and range of `values`, with what they were made of; the median is told at once."""
    median = statistics.median(values)
    print(f"{what}: {median:.4g}", file=sys.stderr)
    return {
        "what": what,
        "median": median,
        "lowest": min(values),
        "highest": max(values),
        "runs": len(values),
        **raw,
    }
