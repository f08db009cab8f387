"""The words of a call → the command line that its results carry."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

SECRETIVE = "--kwargs"  # NAME=VALUE of somebody's module: the value may be a key or a token


def command_line(arguments: Iterable[str]) -> str:
    """As a shell takes it, but for the values of --kwargs: results are passed around."""
    return shlex.join(["aaexport", *_without_secrets(arguments)])


def _without_secrets(arguments: Iterable[str]) -> Iterator[str]:
    secret = False
    for word in arguments:
        option, is_joined, value = word.partition("=")
        if secret:
            yield _masked(word)
        elif option == SECRETIVE and is_joined:
            yield f"{SECRETIVE}={_masked(value)}"
        else:
            yield word
        secret = not secret and word == SECRETIVE


def _masked(pair: str) -> str:
    name, is_pair, _ = pair.partition("=")
    return f"{name}=…" if is_pair else "…"
