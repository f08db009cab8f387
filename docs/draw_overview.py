"""Real results → the picture at the top of the README: docs/images/overview-light.svg and overview-dark.svg.

    python docs/draw_overview.py [FOLDER]

Left, what one head of the trained `aa_cnn3_digits` attends to in a held-out digit. In the middle, the operators of
the reference implementation's layer as a plain `torch.onnx.export` of the public code writes it, and as `aaexport
convert` does. On the right, how many times as fast the file becomes, of docs/results.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import onnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aaexport import build_model
from aaexport.data import evaluation_batch, load_images
from aaexport.folder import find_model
from aaexport.nn import attention_weights

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "examples/03_measure_attention"))

MODEL, LAYER, HEAD = "aa_cnn3_digits", "features.0", 2
DIGIT = 7
QUERY = (4, 4)  # the pixel that attends: row, column
SIZE = 16  # of the layer whose graphs are drawn
RESULTS = (
    ("attention_amd_epyc_2_cores.json", "aa_resnet50, batch 1: naive ÷ ours", "AA-ResNet-50, batch 1"),
    ("attention_amd_epyc_2_cores.json", "aa_resnet50, batch 8: naive ÷ ours", "AA-ResNet-50, batch 8"),
    ("bring_your_own_amd_epyc_2cores.json", "Wide-ResNet 28-10, batch 1: naive ÷ ours", "Wide-ResNet 28-10"),
    ("bring_your_own_amd_epyc_2cores.json", "Wide-ResNet 16-2, batch 1: naive ÷ ours", "Wide-ResNet 16-2"),
    ("attention_amd_epyc_2_cores.json", "layer 32×32, batch 4: naive ÷ ours", "one layer, 32×32"),
    ("attention_amd_epyc_2_cores.json", "layer 64×64, batch 1: naive ÷ ours", "one layer, 64×64"),
)
PRODUCTS = {"Conv", "MatMul", "Einsum", "Gemm"}
ARITHMETIC = {"Add", "Mul", "Div", "Softmax", "Relu"}


@dataclass(frozen=True)
class Palette:
    """Colours of one picture."""

    name: str
    ink: str
    faint: str
    product: str
    arithmetic: str
    movement: str
    image: str  # a colour map that draws ink on the page
    heat: str


PALETTES = (
    Palette("light", "#24292f", "#8c959f", "#0969da", "#1a7f37", "#bc4c00", "gray_r", "Blues"),
    Palette("dark", "#e6edf3", "#7d8590", "#58a6ff", "#3fb950", "#f0883e", "gray", "Blues_r"),
)


def main(images: Path = HERE / "images") -> None:
    """Draws both pictures."""
    digit, weights = attended()
    with tempfile.TemporaryDirectory() as folder:
        graphs = exported(Path(folder))
    speeds = list(measured())
    # Paths, so that it looks alike everywhere; a fixed salt, so that it is drawn alike every time.
    mpl.rcParams |= {"svg.fonttype": "path", "svg.hashsalt": "aaexport", "font.family": "DejaVu Sans", "font.size": 8}
    for palette in PALETTES:
        path = images / f"overview-{palette.name}.svg"
        drawn(palette, digit, weights, graphs, speeds).savefig(path, transparent=True, metadata={"Date": None})
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def attended() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The first held-out image of the digit, (8, 8), and what the head attends to from the query, (8, 8)."""
    recipe = find_model(MODEL).recipe
    images = load_images(recipe, "test")
    index = (images.labels == DIGIT).nonzero()[:1, 0]
    batch = evaluation_batch(images, recipe, index)
    model = build_model(MODEL)
    assert int(model(batch).argmax()) == DIGIT
    weights = attention_weights(model, batch)[LAYER][0, HEAD, QUERY[0], QUERY[1]]
    pixels = images.fitted(index, recipe, None)[0, 0] / images.white
    return pixels.numpy(), weights.numpy()


def exported(folder: Path) -> dict[str, onnx.GraphProto]:
    """The layer's two graphs."""
    from measure import export_layer

    sides = {"torch.onnx.export": "naive", "aaexport": "ours"}
    return {name: onnx.load(export_layer(folder, side, SIZE)).graph for name, side in sides.items()}


def measured() -> Iterator[tuple[str, float, float, float]]:
    """(label, median, lowest, highest) of each result."""
    for file, what, label in RESULTS:
        rows = json.loads((HERE / "results" / file).read_text(encoding="utf-8"))["rows"]
        row = next(row for row in rows if row["what"] == what)
        yield label, row["median"], row["lowest"], row["highest"]


def drawn(palette: Palette, digit: Any, weights: Any, graphs: dict[str, onnx.GraphProto], speeds: Any) -> Figure:
    """The whole picture."""
    figure = Figure(figsize=(10, 2.75))
    draw_image(figure.add_axes((0.0, 0.2, 0.125, 0.6)), palette, digit, palette.image, f"a held-out {DIGIT}")
    uniform = weights * weights.size
    label = f"head {HEAD + 1}: up to {uniform.max():.1f} × uniform"
    draw_image(figure.add_axes((0.14, 0.2, 0.125, 0.6)), palette, uniform, palette.heat, label)
    for place, (name, graph) in zip(((0.295, 0.47), (0.295, 0.03)), graphs.items(), strict=True):
        draw_graph(figure.add_axes((*place, 0.40, 0.42)), palette, graph, name)
    draw_speeds(figure.add_axes((0.825, 0.13, 0.145, 0.74)), palette, speeds)
    titles = (
        (0.005, "what a trained head attends to"),
        (0.3, f"one augmented layer, {SIZE}×{SIZE}, in ONNX"),
        (0.705, "× as fast as the naive export"),
    )
    for x, title in titles:
        figure.text(x, 0.93, title, color=palette.ink, fontsize=9.5, fontweight="bold")
    kinds = (("products", palette.product), ("arithmetic", palette.arithmetic), ("moves numbers", palette.movement))
    for number, (kind, colour) in enumerate(kinds):
        figure.text(0.3 + 0.1 * number, 0.02, f"● {kind}", color=colour, fontsize=7.5)
    return figure


def draw_image(axes: Axes, palette: Palette, values: Any, colours: str, label: str) -> None:
    """Numbers of the map, with the pixel that asks."""
    axes.imshow(values, cmap=colours, vmin=0)
    row, column = QUERY
    box = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": palette.movement, "markeredgewidth": 2}
    axes.plot(column, row, marker="s", **box)
    axes.set_xlabel(label, color=palette.ink, fontsize=7.5, labelpad=4)
    bare(axes)


def draw_graph(axes: Axes, palette: Palette, graph: onnx.GraphProto, name: str) -> None:
    """Operators as dots, from left to right by the longest way to each."""
    depth, made_by, columns = {}, {}, {}
    for at, node in enumerate(graph.node):
        before = [made_by[value] for value in node.input if value in made_by]
        depth[at] = 1 + max((depth[one] for one in before), default=-1)
        made_by |= dict.fromkeys(node.output, at)
        columns.setdefault(depth[at], []).append(at)
    place: dict[int, tuple[float, float]] = {}
    for column, nodes in sorted(columns.items()):
        for number, at in enumerate(nodes):
            place[at] = (column, number - (len(nodes) - 1) / 2)
    for at, node in enumerate(graph.node):
        for value in node.input:
            if value in made_by:
                (x0, y0), (x1, y1) = place[made_by[value]], place[at]
                axes.plot((x0, x1), (y0, y1), color=palette.faint, linewidth=0.6, zorder=1)
    colours = [colour_of(node.op_type, palette) for node in graph.node]
    axes.scatter(
        *zip(*(place[at] for at in range(len(graph.node))), strict=True), c=colours, s=26, zorder=2, linewidths=0
    )
    axes.set_title(f"{name}: {len(graph.node)} operators", color=palette.ink, fontsize=8, y=0.82, x=0.01, loc="left")
    axes.set_xlim(-1, 34)
    axes.set_ylim(-4, 4)
    bare(axes)


def colour_of(operator: str, palette: Palette) -> str:
    """By what it does."""
    if operator in PRODUCTS:
        return palette.product
    return palette.arithmetic if operator in ARITHMETIC else palette.movement


def draw_speeds(axes: Axes, palette: Palette, speeds: Any) -> None:
    """Bars with their ranges."""
    labels, medians, lowest, highest = zip(*speeds, strict=True)
    places = range(len(labels))
    below = [middle - low for middle, low in zip(medians, lowest, strict=True)]
    above = [high - middle for middle, high in zip(medians, highest, strict=True)]
    axes.barh(places, medians, color=palette.product, height=0.62)
    axes.errorbar(medians, places, xerr=(below, above), fmt="none", ecolor=palette.ink, elinewidth=1, capsize=2)
    for at, (median, high) in enumerate(zip(medians, highest, strict=True)):
        axes.text(high + 0.2, at, f"{median:.2f} ×", va="center", color=palette.ink, fontsize=8)
    axes.axvline(1, color=palette.faint, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, labels, color=palette.ink)
    axes.set_xlim(0, max(highest) + 1.5)
    axes.invert_yaxis()
    axes.set_xlabel("onnxruntime on 2 CPU cores; lines: lowest–highest", color=palette.faint, fontsize=7, x=0.2)
    axes.set_xticks([])
    axes.tick_params(left=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def bare(axes: Axes) -> None:
    """No frame and no ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
