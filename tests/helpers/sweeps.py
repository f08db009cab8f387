"""What long sweeps over many networks share: a part of them, sizes that can be afforded, lines that they leave."""

import json
import os
from pathlib import Path

SMALL, SMALLEST = 64, 16  # multiples of the total strides of the networks that take them


def my_share(parameters):
    """Every n-th of them, where AAEXPORT_SHARD asks for a share: neighbours are alike, and cost alike."""
    number, _, count = os.environ.get("AAEXPORT_SHARD", "1/1").partition("/")
    return list(parameters)[int(number) - 1 :: int(count)]


def affordable_size(folder):
    """Height and width to export with; None: the recipe's own."""
    side = SMALLEST if "wrn28_10" in folder.name else SMALL
    if os.environ.get("AAEXPORT_FULL_SIZE") == "1" or max(folder.recipe.input.size) <= side:
        return None
    return (side, side)


def told(variable):
    """The lines of the file that the environment's variable names; none where it names none, or there is none yet."""
    destination = os.environ.get(variable)
    if not destination or not Path(destination).is_file():
        return []
    return [json.loads(line) for line in Path(destination).read_text(encoding="utf-8").splitlines()]


def tell(variable, line):
    """Adds a line to that file, so that a sweep that is cut off leaves what it did."""
    destination = os.environ.get(variable)
    if destination:
        with Path(destination).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def trained_models():
    """The zoo's that are trained, and the folders that AAEXPORT_TRAINED names, as PATH does."""
    others = os.environ.get("AAEXPORT_TRAINED", "").split(os.pathsep)
    return ("aa_cnn3_digits", "aa_wrn10_1_digits", "conv_cnn3_digits", "wrn10_1_digits", *filter(None, others))


def figures(guard):
    """The worst of each measure that the guard took of a file, for a line."""
    of = guard.accuracy
    shares = {} if of is None else {"accuracies": [of.float32 / of.images, of.reduced / of.images]}
    by = sorted({row.measure for row in guard.rows if not row.passed} | ({"faults"} if guard.faults else set()))
    return {"data": guard.data, "passed": guard.passed, "failed_by": by, "worst": guard.worst, **shares}
