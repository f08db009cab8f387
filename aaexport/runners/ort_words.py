"""What onnxruntime complains of → the one line that a user needs: without places in its source, hosts and colours."""

from __future__ import annotations

import re

# A file and line of onnxruntime's source, and the C++ function there with its parameters.
_PLACE = re.compile(r"\S*/onnxruntime/\S+:\d+ [^(]*(\((?:[^()]|\([^()]*\))*\) ?)?(\[with [^\]]*\] ?)?(const )?")
# The same without folders; and what reading an option puts before the reason why it could not be had.
_SHORT_PLACE = re.compile(r"\b\w+\.(?:h|cc|cpp|cu|cuh):\d+ [\w:~]+(?:\(\))? ")
_OPTION = re.compile(r'Failed to parse provider option "\w+": ')
# As its CUDA provider ends a complaint: on which host, in which file, by which call.
_CALL = re.compile(r" ?; ?GPU=-?\d+ ?; ?hostname=.*? ?; ?file=.*? ?; ?line=\d+ ?; ?expr=([A-Za-z_]\w*)?.*", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")


def cause(error: Exception) -> str:
    """Of an exception that a session raised."""
    return clean(str(error)) or type(error).__name__


def clean(text: str) -> str:
    """One line of its text."""
    found = _CALL.search(text)
    first = next(iter(_COLOUR.sub("", _CALL.sub("", text)).strip().splitlines()), "")
    told = _OPTION.sub("", _SHORT_PLACE.sub("", _STATUS.sub("", _PLACE.sub("", first))))
    told = _NODE.sub(lambda node: f"{node[1]} {node[2]}: " if node[2] else f"{node[1]}: ", told)
    told = told.strip().removesuffix(".")
    return f"{told} ({found[1]})" if found and found[1] and found[1] not in told else told


def reason(noise: list[str]) -> str:
    """The one line of its log that tells why a provider did not start: the missing library, if named."""
    for line in noise:
        _, found, library = line.partition("with error: ")
        if found:
            return clean(library)
    telling = [line for line in noise if "error" in line.lower() or "fail" in line.lower()]
    return clean(telling[-1].split("] ")[-1]) if telling else ""
