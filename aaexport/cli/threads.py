"""How PyTorch's threads wait for each other, in commands that run it and measure nothing."""

from __future__ import annotations

import os

ASKED_FOR = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # the user's own word on it


def let_threads_sleep() -> None:
    """Lets them sleep, where nobody has said otherwise; to be called before PyTorch is loaded, which reads it then.

    By itself OpenMP has them spin. Where another process wants a core too, they spin until the system takes it from
    them, while what they wait for is not run: to verify a small network then takes five times as long.
    """
    if not any(name in os.environ for name in ASKED_FOR):
        os.environ["OMP_WAIT_POLICY"] = "passive"
