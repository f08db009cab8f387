"""`prepare` in a process of its own.

Run as `python -m aaexport.pipeline.serve.child`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aaexport.serving.apart import Apart, do_as_told

if TYPE_CHECKING:
    from aaexport.pipeline.serve.order import Order, Prepared


class Preparation(Apart["Prepared"]):
    """`prepare` in a process of its own, without what it loads here."""

    def __init__(self, order: Order) -> None:
        super().__init__("aaexport.pipeline.serve.child", order, f"{order.folder} must be read and run once")


def prepare_apart(order: Order) -> Prepared:
    """As `prepare`, without what it loads; the process is gone when this returns. Raises as `Preparation.result`."""
    preparation = Preparation(order)
    try:
        return preparation.result()
    finally:
        preparation.stop()


def _prepared(order: Order) -> Prepared:
    from aaexport.pipeline.serve.prepare import prepare

    return prepare(order)


if __name__ == "__main__":
    do_as_told(_prepared)
