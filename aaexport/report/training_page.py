"""Trainings, finished or under way → one page: how they go epoch by epoch, beside each other, and every figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from aaexport.report import curves
from aaexport.report.attention_course import attention_course
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.page import card, folded, notes, page, table
from aaexport.report.training import short_duration
from aaexport.training.evaluation import TOP
from aaexport.training.records import TrainResult

Named = Sequence[tuple[str, TrainResult]]
CURVES = (
    ("Loss", curves.loss),
    ("Accuracy", curves.accuracy),
    ("Learning rate", curves.learning_rate),
    ("Speed", curves.speed),
)


def training_page(results: Sequence[TrainResult], remarks: Iterable[str] = ()) -> str:
    """The page as text, to be written in UTF-8. Each of `results` has an epoch at least."""
    named = _named(results)
    title = " and ".join(name for name, _ in named)
    drawn = element("div", *(card(name, of(named)) for name, of in CURVES), class_="cards")
    beside = _beside(named) if len(named) > 1 else _tiles(results[0])
    looks = [card(f"Where {name} looks", attention_course(one.attention)) for name, one in named if one.attention]
    parts = (_heading(title, results), _under_way(named), beside, drawn, *looks, _numbers(named, remarks), _footer())
    return page(f"{title}: training", *(part for part in parts if part is not None))


def _named(results: Sequence[TrainResult]) -> Named:
    """By the folders' names; by their paths where two are called alike."""
    names = [result.folder.resolve().name for result in results]
    if len(set(names)) < len(names):
        names = [str(result.folder) for result in results]
    return list(zip(names, results, strict=True))


def _heading(title: str, results: Sequence[TrainResult]) -> Html:
    first = results[0]
    processes = f"{first.processes} processes" if first.processes > 1 else ""
    begun = "" if not first.dataset else f"on {first.dataset}"
    where = ", ".join(filter(None, (begun, first.device, first.precision, processes)))
    return element(
        "header",
        element("p", f"Training, {first.date}", class_="kicker"),
        element("h1", title),
        element("p", where),
        element("p", first.command, class_="dim") if first.command else None,
    )


def _under_way(named: Named) -> Html | None:
    """What is missing, of a training that goes on or was interrupted."""
    short = [(name, len(one.epochs), one.planned) for name, one in named if (one.planned or 0) > len(one.epochs)]
    if not short:
        return None
    said = [f"{name}: {done} of {planned} epochs" for name, done, planned in short]
    remedy = "It goes on, and this page with it at every epoch; or it was interrupted, and --resume goes on."
    points = element("ul", *(element("li", line) for line in said))
    return element("div", element("strong", "! Not finished"), points, element("p", remedy), class_="verdict mind")


def _tiles(result: TrainResult) -> Html:
    """The figures that a reader came for."""
    last, best = result.epochs[-1], result.epochs[result.best_epoch - 1]
    speed = statistics.median(epoch.images_per_second for epoch in result.epochs)
    tiles = [
        ("held-out accuracy", f"{last.test_accuracy:.2%}", f"after epoch {last.epoch}"),
        ("best epoch", f"{best.test_accuracy:.2%}", f"epoch {best.epoch}, which the held-out images chose"),
        ("training accuracy", f"{last.train_accuracy:.2%}", "on the way, of varied images"),
        ("images a second", f"{speed:,.0f}", f"median; {short_duration(result.seconds)} in all"),
    ]
    drawn = (
        element("div", element("dt", name), element("dd", value), element("dd", behind, class_="dim"))
        for name, value, behind in tiles
    )
    return element("dl", *drawn, class_="tiles")


def _beside(named: Named) -> Html:
    """A row a model."""
    columns = ("model", "epochs", "loss", "train", "held-out", "best", "images/s", "an epoch")
    rows = []
    for name, result in named:
        last, best = result.epochs[-1], result.epochs[result.best_epoch - 1]
        speed = statistics.median(epoch.images_per_second for epoch in result.epochs)
        seconds = statistics.median(epoch.seconds for epoch in result.epochs)
        shares = (f"{share:.2%}" for share in (last.train_accuracy, last.test_accuracy, best.test_accuracy))
        count = str(len(result.epochs))
        rows.append((name, count, f"{last.loss:.4f}", *shares, f"{speed:,.0f}", short_duration(seconds)))
    values = table("The models beside each other", columns, rows, words=columns[:1])
    small = notes(["Images a second and the time of an epoch are medians. Trained in turn, epoch by epoch."])
    return card("Beside each other", values, small)


def _numbers(named: Named, remarks: Iterable[str]) -> Html:
    said = dict.fromkeys((*(note for _, result in named for note in result.notes), *remarks))
    tables = (folded(name, _epochs(name, result)) for name, result in named)
    return card("Every epoch", *tables, notes(f"Note: {line}" for line in said))


def _epochs(name: str, result: TrainResult) -> Html:
    top5 = [f"top-{TOP}"] if result.classes > TOP else []
    columns = ("epoch", "loss", "train", "held-out", *top5, "learning rate", "images/s", "seconds")
    return table(f"{name}, epoch by epoch", columns, _rows(result))


def _rows(result: TrainResult) -> Iterator[tuple[str, ...]]:
    for epoch in result.epochs:
        shares = [epoch.train_accuracy, epoch.test_accuracy, *([epoch.test_top5] if result.classes > TOP else [])]
        yield (
            str(epoch.epoch),
            f"{epoch.loss:.4f}",
            *(f"{share:.2%}" for share in shares),
            f"{epoch.learning_rate:.3g}",
            f"{epoch.images_per_second:,.0f}",
            f"{epoch.seconds:.3g}",
        )


def _footer() -> Html:
    best = (
        "The best epoch is optimistic: the held-out images that judge it have chosen it. Accuracy on training images "
        "is counted on the way, while the network changes and the images are varied."
    )
    written = "Written after every epoch by aaexport train; train.jsonl beside it has the same figures."
    return element("footer", join([element("p", best), element("p", written)]))
