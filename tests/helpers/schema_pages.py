"""The pages of docs/ that describe a JSON value field by field, and the fields of a value as they write them."""

import re


def leaves(value, free, path=""):
    """(path, value) of every leaf; `free` are paths of objects whose names are not part of the schema."""
    if path in free:
        for entry in value.values():
            yield from leaves(entry, free, f"{path}{{}}")
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, free, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for entry in value:
            yield from leaves(entry, free, f"{path}[]")
    else:
        yield path, value


def described(page):
    """Path → type of every field that the page describes, each once."""
    rows = re.findall(r"^\| `([^`]+)` \| ([a-z ]+) \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return dict(rows)
