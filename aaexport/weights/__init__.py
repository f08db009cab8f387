"""Checkpoints as people keep them → a module's tensors: read without running anything, loaded strictly."""

from typing import TYPE_CHECKING

from aaexport.lazy import lazily

if TYPE_CHECKING:
    from aaexport.weights.loading import load_checkpoint
    from aaexport.weights.tables import is_relative_table, table_axis, table_length

__all__ = ["is_relative_table", "load_checkpoint", "table_axis", "table_length"]

_HOMES = {
    "is_relative_table": "tables",
    "load_checkpoint": "loading",
    "table_axis": "tables",
    "table_length": "tables",
}
__getattr__, __dir__ = lazily(__name__, __all__, _HOMES)
