"""The data sets that a recipe may name, and which keys of [data] each takes: told and checked without reading one."""

from __future__ import annotations

from aaexport.errors import DataError, broken_rule, did_you_mean
from aaexport.recipe.model import Data

DATA_SETS: dict[str, str] = {
    "digits": "scikit-learn's 8×8 digits, offline",
    "cifar10": "CIFAR-10 from the Hugging Face hub's cache",
    "cifar100": "CIFAR-100 from the Hugging Face hub's cache",
    "mnist": "MNIST from the Hugging Face hub's cache",
    "imagenet": "ImageNet-1k from the Hugging Face hub's cache",
    "imagefolder": "a folder, [data] path, of train/<class>/… and test/<class>/…",
    "synthetic": "noise of the recipe's size, for load tests",
}
OPTIONAL_KEYS = ("path", "label_column", "test_split")
HUB_KEYS = ("label_column", "test_split")
KEYS: dict[str, tuple[str, ...]] = {
    "digits": (),
    "cifar10": HUB_KEYS,
    "cifar100": HUB_KEYS,
    "mnist": HUB_KEYS,
    "imagenet": HUB_KEYS,
    "imagefolder": ("path", "test_split"),
    "synthetic": (),
}


def is_of_the_hub(name: str) -> bool:
    """Whether it has the form `owner/name` of a data set on the Hugging Face hub."""
    owner, _, repository = name.partition("/")
    return bool(owner and repository) and "/" not in repository


def check_data_set(data: Data) -> None:
    """DataError for a name that is none, or a key that does not go with it."""
    if data.dataset not in DATA_SETS and not is_of_the_hub(data.dataset):
        rule = "be a known data set, or owner/name of one on the Hugging Face hub"
        raise DataError(broken_rule("[data] dataset", rule, data.dataset, did_you_mean(data.dataset, DATA_SETS)))
    for key in OPTIONAL_KEYS:
        value = getattr(data, key)
        if value and key not in KEYS.get(data.dataset, HUB_KEYS):
            raise DataError(broken_rule(f"[data] {key}", f"be left out for {data.dataset}", value))
