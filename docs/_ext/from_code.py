"""Sphinx's directive `{from-code} NAME`: a table that is made of the code as it stands, so that it cannot drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import messages
import tables
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

MAKERS: dict[str, Callable[[], str]] = {
    "adapters": tables.adapters,
    "counts": tables.counts,
    "data-sets": tables.data_sets,
    "decompositions": tables.decompositions,
    "errors": tables.error_tree,
    "exit-codes": tables.exit_codes,
    "folder": tables.folder,
    "graph-rules": tables.graph_rules,
    "guard-accuracy": tables.guard_accuracy,
    "guard-faults": tables.guard_faults,
    "guard-ways": tables.guard_ways,
    "kernels": tables.kernels,
    "messages": messages.as_markdown,
    "model-toml": tables.model_toml,
    "runtimes": tables.runtimes,
    "schemas": tables.schemas,
    "thresholds": tables.thresholds,
    "tolerances": tables.tolerances,
    "wrappers": tables.wrappers,
    "zoo": tables.zoo,
}


class FromCode(SphinxDirective):
    """Its one argument names what is made."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The Markdown of the table, parsed where it stands."""
        name = self.arguments[0]
        if name not in MAKERS:
            raise self.error(f"from-code must be one of {', '.join(MAKERS)}, got {name!r}")
        self.env.note_reread()  # the code may have changed where the page has not
        return self.parse_text_to_nodes(MAKERS[name](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_directive("from-code", FromCode)
    return {"parallel_read_safe": True}
