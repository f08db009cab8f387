"""Other people's augmented layers → AugmentedConv2d: any module, on a copy, each replacement checked by numbers.

To add a source: write a file with an `Adapter` in it, put that into `ADAPTERS`, and add a look-alike of the source's
layer to tests/helpers/look_alikes.py; tests/adapters/test_adapters_properties.py then holds the replacement to it.
"""

from aaexport.adapters.adaptation import ADAPTERS, Adaptation, adapt
from aaexport.adapters.adapter import Adapter

__all__ = ["ADAPTERS", "Adaptation", "Adapter", "adapt"]
