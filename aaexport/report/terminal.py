"""Results → what a person reads in ten seconds, as rich renderables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from aaexport.errors import first_few
from aaexport.report.attention import head_of, listed
from aaexport.report.parity import wording
from aaexport.report.parity.terminal import verdict_view

if TYPE_CHECKING:
    from aaexport.graph.files import GraphSummary, TensorInfo
    from aaexport.recipe import Input
    from aaexport.results import AttentionPicture, ConvertResult, InspectResult

NAMED_LAYERS = 4


def convert_view(result: ConvertResult) -> RenderableType:
    """Where the file is, what it is made of, and the verdict."""
    rows: dict[str, RenderableType] = {
        "file": f"{result.path} ({_size(result.bytes)})",
        "opset": f"{result.opset}, batch {result.batch}, decomposition {result.decomposition}",
        "operators": histogram(result.operators),
        "rules": ", ".join(f"{count} × {rule}" for rule, count in result.rules.items()) or "none applied",
        "parity": verdict_view(result.parity) if result.parity else "not verified (--no-verify)",
        "took": f"{result.seconds:.1f} s",
    }
    if result.attention_outputs:
        rows["attention"] = f"{len(result.attention_outputs)} outputs: {listed(result.attention_outputs)}"
    if result.replaced:
        rows["replaced"] = "\n".join(layers_in_words(result.replaced))
    if result.kept:
        rows["kept"] = Text("\n".join(f"{path}: {why}" for path, why in result.kept.items()), style="yellow")
    if result.parity and (warnings := wording.warnings(result.parity)):
        rows["warning"] = Text("\n".join(warnings), style="yellow")
    return facts(rows | ({"note": "\n".join(result.notes)} if result.notes else {}))


def layers_in_words(replaced: Mapping[str, str]) -> list[str]:
    """How many layers of which kind, and which."""
    paths: dict[str, list[str]] = {}
    for path, kind in replaced.items():
        paths.setdefault(kind, []).append(path)
    return [f"{len(found)} × {kind}: {first_few(found, NAMED_LAYERS)}" for kind, found in paths.items()]


def inspect_view(result: InspectResult) -> RenderableType:
    """The recipe's network and its cost, then the graph."""
    rows: dict[str, RenderableType] = {}
    if result.recipe is not None and result.cost is not None:
        recipe, cost = result.recipe, result.cost
        rows["model"] = f"{result.path.name}: {recipe.description}"
        rows["network"] = f"{recipe.network.family}, decomposition {recipe.export.decomposition}"
        rows["input"] = _input(recipe.input)
        rows["parameters"] = f"{cost.parameters:,}"
        rows["MACs per image"] = f"{cost.macs:,}, attention's products {cost.attention_macs:,} of them"
        rows["weights"] = "yes" if result.has_weights else "none yet"
    if result.module is not None:
        module = result.module
        rows["model"] = f"{result.path.name}, made of {' '.join([module.source, *module.kwargs])}"
        rows["input"] = _shape(("batch", *module.input_shape))
        rows["weights"] = "yes" if result.has_weights else "none yet"
    if result.graph is not None:
        rows |= _graph_rows(result.graph)
    else:
        rows["model.onnx"] = "none yet"
    return facts(rows)


def attention_view(picture: AttentionPicture) -> RenderableType:
    """Where the picture is, and what is on it."""
    rows = {"picture": f"{picture.path}, {picture.image} as {picture.name} attends to it"}
    for layer in picture.layers:
        height, width = layer.weights.shape[-2:]
        heads, queries = ", ".join(map(str, layer.heads)), " ".join(f"{r},{c}" for r, c in layer.pixels)
        rows[f"layer {layer.layer}"] = f"map {height}×{width}, heads {heads}, queries {queries}"
    return facts(rows | ({"note": "\n".join(picture.notes)} if picture.notes else {}))


def models_view(zoo: Mapping[str, InspectResult]) -> Table:
    """The zoo, one model a row."""
    table = new_table("model", "parameters", "MACs", "of attention", "input", "data set", "weights")
    for name, entry in zoo.items():
        assert entry.recipe is not None
        assert entry.cost is not None
        table.add_row(
            name,
            f"{entry.cost.parameters:,}",
            _count(entry.cost.macs),
            _count(entry.cost.attention_macs),
            "×".join(str(size) for size in entry.recipe.input.shape),
            entry.recipe.data.dataset,
            "yes" if entry.has_weights else "train first",
        )
    return table


def names_view(title: str, meaning: str, entries: Mapping[str, str]) -> Table:
    """A list of names with a line each."""
    table = new_table(title, meaning)
    for name, text in entries.items():
        table.add_row(name, text)
    return table


def _count(value: int) -> str:
    """With the unit that people give such counts in."""
    if value == 0:
        return "–"
    return f"{value / 1e9:.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _input(image: Input) -> str:
    classes = f", {image.classes:,} classes" if image.classes else ""
    return f"{_shape(('batch', *image.shape))}{classes}"


def _graph_rows(graph: GraphSummary) -> dict[str, RenderableType]:
    notes = {k: v if len(v) <= 60 else f"{v[:57]}…" for k, v in graph.metadata.items()}
    return {
        "file": f"{graph.path} ({_size(graph.bytes)})",
        "opset": f"{graph.opset}, written by {graph.producer or 'an unnamed producer'}",
        "operators": histogram(graph.operators),
        "initializers": f"{graph.parameters:,} floating-point numbers",
        "MACs": "not known: a shape is missing" if graph.macs is None else f"{graph.macs:,} at batch 1",
        "inputs": "; ".join(_tensor(tensor) for tensor in graph.inputs),
        "outputs": "; ".join(_tensor(tensor) for tensor in graph.outputs if head_of(tensor.name) is None),
        **({"attention": listed(heads)} if (heads := [t.name for t in graph.outputs if head_of(t.name)]) else {}),
        "metadata": "\n".join(f"{key} = {value}" for key, value in notes.items()) or "none",
    }


def histogram(operators: Mapping[str, int]) -> str:
    """How many, and how many of each."""
    total = sum(operators.values())
    return f"{total}: " + ", ".join(f"{count} {name}" for name, count in operators.items())


def _tensor(tensor: TensorInfo) -> str:
    return f"{tensor.name} {tensor.dtype} {_shape(tensor.shape)}"


def _shape(sizes: tuple[int | str | None, ...]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in sizes) + ")"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count:,} bytes"


def new_table(*headers: str, justify_from: int = 99) -> Table:
    """An empty one, the columns from `justify_from` on to the right."""
    empty = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, header in enumerate(headers):
        empty.add_column(header, justify="right" if index >= justify_from else "left")
    return empty


def facts(rows: Mapping[str, Any]) -> Table:
    """Names and values, without a frame."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    return table
