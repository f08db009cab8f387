"""How long torch's threads wait for one another by computing nothing → briefly: beside other work, that costs a lot.

libgomp, which shares torch's loops out over threads, lets a thread that is done spin until the others are. Where
another program has a CPU, that takes as long as its turn does, at every loop of a small network. Threads that soon
sleep leave their CPU to whoever is waited for.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPINS = "GOMP_SPINCOUNT"
ASKED_FOR = (SPINS, "OMP_WAIT_POLICY")  # the user's own word on it
BRIEFLY = "10000"  # turns; a small network trains as fast with so many on an idle machine, with 1000 it does not


def spin_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """For libgomp, which reads it when torch is imported: call it before."""
    if not any(name in environment for name in ASKED_FOR):
        environment[SPINS] = BRIEFLY
