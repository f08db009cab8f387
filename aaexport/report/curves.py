"""Trainings → their curves by epoch, drawn: loss, accuracy, learning rate and speed, a colour a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aaexport.report.page.markup import Html, element
from aaexport.report.page.page import figure
from aaexport.report.page.plot import Axis, chart, dots, line, stretched
from aaexport.training.records import Epoch, TrainResult

FEW = 30  # epochs, up to which each has a dot
SERIES = 4  # colours of lines
Value = Callable[[Epoch], float]


def loss(named: Sequence[tuple[str, TrainResult]]) -> Html:
    """The mean over the training images."""
    return _curves("loss", "Loss", named, lambda epoch: epoch.loss, lambda value: f"{value:.4f}")


def accuracy(named: Sequence[tuple[str, TrainResult]]) -> Html:
    """Of held-out images, and dashed of training images on the way, in percent."""

    def held_out(epoch: Epoch) -> float:
        return 100 * epoch.test_accuracy

    def trained(epoch: Epoch) -> float:
        return 100 * epoch.train_accuracy

    values = [of(epoch) for _, result in named for epoch in result.epochs for of in (held_out, trained)]
    y = Axis.linear("accuracy, %", values, most=100.0)
    caption = "Solid: held-out images, after the epoch. Dashed: training images, on the way."
    return _curves(
        "accuracy", "Accuracy", named, held_out, lambda value: f"{value:.2f} %", y=y, dashed=trained, caption=caption
    )


def learning_rate(named: Sequence[tuple[str, TrainResult]]) -> Html:
    """That of an epoch's last step."""
    values = [epoch.learning_rate for _, result in named for epoch in result.epochs]
    y = Axis("learning rate", 0.0, max(values) * 1.05 or 1.0)
    return _curves(
        "rate", "Learning rate", named, lambda epoch: epoch.learning_rate, lambda value: f"{value:.3g}", y=y
    )


def speed(named: Sequence[tuple[str, TrainResult]]) -> Html:
    """Of training alone."""
    values = [epoch.images_per_second for _, result in named for epoch in result.epochs]
    y = Axis("images/s", 0.0, max(values) * 1.05 or 1.0)
    return _curves(
        "speed",
        "Images a second",
        named,
        lambda epoch: epoch.images_per_second,
        lambda value: f"{value:,.0f}",
        y=y,
        caption="Of training alone, without the evaluation.",
    )


def colour(place: int) -> str:
    """The class that gives the n-th model its colour."""
    return f"series-{place % SERIES}"


def _curves(
    key: str,
    title: str,
    named: Sequence[tuple[str, TrainResult]],
    value: Value,
    written: Callable[[float], str],
    *,
    y: Axis | None = None,
    dashed: Value | None = None,
    caption: str = "",
) -> Html:
    """One curve a model, a second one `dashed`; what each ends with is in the key below."""
    last = max(result.epochs[-1].epoch for _, result in named)
    x = Axis("epoch", 1.0, float(last), whole=True) if last > 1 else Axis("epoch", 0.0, 2.0, whole=True)
    y = y or Axis.around(title.lower(), [value(epoch) for _, result in named for epoch in result.epochs])
    paths, entries, told = [], [], []
    for place, (name, result) in enumerate(named):
        kind, ends = colour(place), [written(value(epoch)) for epoch in (result.epochs[0], result.epochs[-1])]
        for of, style in ((dashed, "dashed"), (value, "")):
            if of is not None:
                paths += _line(x, y, result.epochs, of, f"{kind} {style}".strip())
        sign = element("b", "●", class_=kind)
        entries.append(element("span", sign, f"{name}:", Html("\u00a0"), ends[-1], class_="curve"))
        told.append(f"{name}: {' → '.join(dict.fromkeys(ends))} over {_epochs(len(result.epochs))}")
    drawn = chart(key, f"{title} by epoch", "; ".join(told), stretched(*paths), x=x, y=y)
    return figure(drawn, *entries, *([element("br"), caption] if caption else []))


def _line(x: Axis, y: Axis, epochs: Sequence[Epoch], value: Value, kind: str) -> list[Html]:
    points = [(x.place(epoch.epoch), y.place(value(epoch))) for epoch in epochs]
    solid = kind.removesuffix(" dashed")
    own = [] if len(points) > FEW or (solid != kind and len(points) > 1) else [dots(points, f"epoch {solid}")]
    return [*([line(points, kind)] if len(points) > 1 else []), *own]


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
