"""YAML ↔ values, by PyYAML: written in the order given, read so that nothing is passed over."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from aaexport.errors import DeploymentError, FolderError, first_line


@cache
def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError as error:
        raise FolderError("PyYAML is not installed; pip install 'aaexport[deploy]'") from error


def yaml_of(value: dict[str, Any]) -> str:
    """The value as YAML, its keys in their order."""
    yaml = _yaml()

    class Plain(yaml.SafeDumper):  # type: ignore[name-defined, misc]  # PyYAML is imported where it is used
        """Writes what stands in two places twice: people read it."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    text: str = yaml.dump(value, Dumper=Plain, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


def read_yaml(text: str) -> Any:
    """The value that the text is.

    Raises:
        DeploymentError: it is no YAML, or a key stands twice in one place, of which a cluster would take the last.
    """
    yaml = _yaml()

    class Strict(yaml.SafeLoader):  # type: ignore[name-defined, misc]  # PyYAML is imported where it is used
        """Refuses a key that stands twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise DeploymentError(f"{key} must stand once in its place, got it twice: {node.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Strict)
    except yaml.YAMLError as error:
        raise DeploymentError(f"the file must be YAML, but: {first_line(error)}") from error
