"""`prepare` in a process of its own.

Run as `python -m aaexport.pipeline.serve.child`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aaexport.serving.apart import Apart, Waiting, do_as_told

if TYPE_CHECKING:
    from aaexport.pipeline.serve.order import Order, Prepared

MODULE = "aaexport.pipeline.serve.child"


class Preparation(Apart["Prepared"]):
    """`prepare` in a process of its own, without what it loads here; in one that waits for an order, if given."""

    def __init__(self, order: Order, waiting: Waiting | None = None) -> None:
        super().__init__(waiting or MODULE, order, f"{order.folder} must be read and run once")


def waiting_to_prepare() -> Waiting:
    """A process that loads what a `Preparation` takes. RunnerError if there is no room for one more."""
    return Waiting(MODULE)


def prepare_apart(order: Order, waiting: Waiting | None = None) -> Prepared:
    """As `prepare`, without what it loads; the process is gone when this returns. Raises as `Preparation.result`."""
    preparation = Preparation(order, waiting)
    try:
        return preparation.result()
    finally:
        preparation.stop()


def _load() -> None:
    """What every preparation takes, half a second of it."""
    import aaexport.load.machine
    import aaexport.pipeline.serve.prepare
    import aaexport.report.tuned
    import aaexport.runners.ort
    import aaexport.runners.ort_settings  # noqa: F401


def _prepared(order: Order) -> Prepared:
    from aaexport.pipeline.serve.prepare import prepare

    return prepare(order)


if __name__ == "__main__":
    do_as_told(_prepared, _load)
