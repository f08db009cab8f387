"""A recipe and the part of its data set that is wanted → what every source asks about them, and its refusals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aaexport.errors import DataError, broken_rule
from aaexport.recipe import Recipe

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Request:
    """The part of a data set that is wanted, and what may be done to get it.

    Attributes:
        base: the folder that a relative `[data] path` starts from; None is the working directory.
        download: whether the network may be used.
        skip_bad: whether images that cannot be decoded are left out.
    """

    recipe: Recipe
    split: Split
    base: Path | None = None
    download: bool = False
    skip_bad: bool = False

    def part_name(self, test_split: str = "test") -> str:
        """What the data set calls that part; `test_split` is its own name for the test part."""
        return "train" if self.split == "train" else self.recipe.data.test_split or test_split

    def require_classes(self, count: int, names: str = "") -> None:
        """DataError unless the recipe has `count` classes; one without a classifier may have any number."""
        classes = self.recipe.input.classes
        if self.recipe.network.classifies and classes != count:
            listed = f" ({names})" if names else ""
            rule = f"name or count the {count} classes of {self.recipe.data.dataset}{listed}"
            raise DataError(broken_rule("[input] labels", rule, classes))

    def require_channels(self, *choices: int) -> None:
        """DataError unless the recipe's channels are one of `choices`."""
        channels = self.recipe.input.channels
        if channels not in choices:
            rule = f"be {' or '.join(map(str, choices))} for {self.recipe.data.dataset}"
            raise DataError(broken_rule("[input] channels", rule, channels))
