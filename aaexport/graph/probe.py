"""The smallest model that makes a runtime work, as bytes: who only asks what works here need not wait for onnx."""

from __future__ import annotations

_PROBE = bytes.fromhex(
    "0808"  # ir_version 8
    "3a39"  # the graph
    "0a0e 0a0178 0a0178 120179 2203416464"  # its node y = Add(x, x)
    "1205 70726f6265"  # its name, probe
    "5a0f 0a0178 120a 0a08 0801 1204 0a02 0801"  # its input x, one float32 number
    "620f 0a0179 120a 0a08 0801 1204 0a02 0801"  # its output y, likewise
    "4204 0a00 1012"  # opset 18 of the standard domain
)


def probe_model() -> bytes:
    """An ONNX model of one addition, y = x + x, of shape (1,). A provider that runs it really runs."""
    return _PROBE
