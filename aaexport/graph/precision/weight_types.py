"""How the weights of an int8 file are stored, and which of it goes with what: loads nothing else.

Weights are symmetric around 0 in each type; what the types differ in is what CPUs make of them. x86 without VNNI adds
two products of unsigned activations and signed weights in 16 bits, where 255 · 127 · 2 does not fit: what is too
large becomes the largest number there, without a word (onnxruntime on AVX2: 6 dB instead of 36 for `aa_cnn3_digits`).
255 · 64 · 2 does. Unsigned weights are multiplied in 16 bits and added in 32, on CPUs with VNNI too: onnxruntime
takes its instructions for signed weights alone.
"""

from __future__ import annotations

from typing import Literal, get_args

WeightType = Literal["uint8", "int8", "int7"]
WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)
# The largest stored weight, on both sides of 0; two products of int7 and 255 fit into 16 bits.
LARGEST: dict[WeightType, int] = {"uint8": 127, "int8": 127, "int7": 64}
