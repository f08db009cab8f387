"""What the tests of the verbs share: a machine whose other processes decide nothing."""

from dataclasses import replace

import pytest

from aaexport.load.machine import MachineWatch


@pytest.fixture(autouse=True, scope="module")
def quiet_machine():
    """Measurements of this process are told that they had the CPU alone: the tests beside them decide no verdict.

    `tests/load` holds the real account; what is made of a busy machine is tested with one that is said to be busy.
    """
    real = MachineWatch.environment

    def environment(watch):
        return replace(real(watch), steal_share=0.0, other_load_share=0.0, idle_share=0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MachineWatch, "environment", environment)
        yield
