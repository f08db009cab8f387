"""Checkpoints as people keep them → a module's tensors: read without running anything, loaded strictly."""

from aaexport.weights.loading import load_checkpoint
from aaexport.weights.tables import is_relative_table, table_axis, table_length

__all__ = ["is_relative_table", "load_checkpoint", "table_axis", "table_length"]
