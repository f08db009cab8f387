"""Results → what a person reads in ten seconds, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from aaexport.errors import first_few
from aaexport.report.attention import head_of, listed
from aaexport.report.layout import Cell, Facts, Table, Words
from aaexport.report.on_cuda import rows_on_cuda
from aaexport.report.parity import wording
from aaexport.report.parity.guard import guard_circumstances
from aaexport.report.parity.terminal import layers_view, verdict_line

if TYPE_CHECKING:
    from aaexport.graph.files import GraphSummary, TensorInfo
    from aaexport.recipe import Input
    from aaexport.results import AttentionPicture, ConvertResult, InspectResult, KeptLayer

NAMED_LAYERS = 4
SHORT = 60  # characters of a value among the metadata
DIGESTS = ("_digest", ".initializers")  # metadata that are for machines alone
DRAWN = "aaexport.before_rules"  # one that `inspect --page` draws, and nobody reads


def convert_view(result: ConvertResult) -> RenderableType:
    """Where the file is, what it is made of, and the verdict."""
    rows: dict[str, Cell] = {
        "file": f"{result.path} ({size_with(result.bytes, result.data_file is not None)})",
        "opset": f"{result.opset}, batch {result.batch}, decomposition {result.decomposition}",
        "operators": histogram(result.operators),
        "rules": ", ".join(f"{count} × {rule}" for rule, count in result.rules.items()) or "none applied",
        "parity": verdict_line(result.parity) if result.parity else "not verified (--no-verify)",
        "took": f"{result.seconds:.1f} s",
    }
    if result.dtype != "float32":
        del rows["rules"]  # those of the float32 file
        rows[result.dtype] = f"{result.reduced} nodes, calibrated on {result.calibration}"
        if result.parity is not None and result.parity.guard is not None:
            rows["guard"] = "\n".join(guard_circumstances(result.parity.guard))
    if result.data_file is not None:
        rows["data"] = beside(result.data_file)
    rows |= rows_on_cuda(result.on_cuda)
    if result.attention_outputs:
        rows["attention"] = f"{len(result.attention_outputs)} outputs: {listed(result.attention_outputs)}"
    if result.replaced:
        rows["replaced"] = "\n".join(layers_in_words(result.replaced))
    if result.kept:
        rows["kept"] = Text("\n".join(f"{path}: {why}" for path, why in result.kept.items()), style="yellow")
    if result.parity and (warnings := wording.warnings(result.parity)):
        rows["warning"] = Text("\n".join(warnings), style="yellow")
    facts = Facts(rows | ({"note": "\n".join(result.notes)} if result.notes else {}))
    more: list[RenderableType] = [Words(), _kept_layers(result.kept_layers)] if result.kept_layers else []
    guard = None if result.parity is None else result.parity.guard
    if guard is not None and (layers := layers_view(guard)) is not None:
        more += [Words(), layers]
    return Group(facts, *more) if more else facts


def _kept_layers(layers: Sequence[KeptLayer]) -> Table:
    """What each of them would have cost, and what it bought."""
    headers = ("stays in float32", "operator", "alone reduced", "then all", "because")
    rows = [
        (each.path or each.node, each.operator, _db(each.alone_db), _db(each.sqnr_db), each.reason) for each in layers
    ]
    return Table(headers, rows, texts=(0, 1), prose=True)


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def size_with(size: int, has_data: bool) -> str:
    """Of a file, and of what lies beside it."""
    return _size(size) + (" with its data" if has_data else "")


def beside(data: Path) -> str:
    """What a user must know of a file with numbers of another."""
    return f"{data}, the file's large tensors: keep both in one folder"


def layers_in_words(replaced: Mapping[str, str]) -> list[str]:
    """How many layers of which kind, and which."""
    paths: dict[str, list[str]] = {}
    for path, kind in replaced.items():
        paths.setdefault(kind, []).append(path)
    return [f"{len(found)} × {kind}: {first_few(found, NAMED_LAYERS)}" for kind, found in paths.items()]


def inspect_view(result: InspectResult, *, verbose: bool = False) -> RenderableType:
    """The recipe's network and its cost, then the graph; digests and long metadata only if `verbose`."""
    return Facts(inspect_rows(result, verbose=verbose))


def inspect_rows(result: InspectResult, *, verbose: bool = False) -> dict[str, Cell]:
    """The same, row by row."""
    rows: dict[str, Cell] = {}
    if result.recipe is not None and result.cost is not None:
        recipe, cost = result.recipe, result.cost
        rows["model"] = f"{result.name}: {recipe.description}"
        rows["network"] = f"{recipe.network.family}, decomposition {recipe.export.decomposition}"
        rows["input"] = _input(recipe.input)
        rows["parameters"] = f"{cost.parameters:,} in the network"
        rows["MACs"] = f"{cost.macs:,} an image, {cost.attention_macs:,} of them in attention's products"
        rows["weights"] = "yes" if result.has_weights else "none yet"
    if result.module is not None:
        module = result.module
        rows["model"] = f"{result.name}, made of {' '.join([module.source, *module.kwargs])}"
        rows["input"] = _shape(("batch", *module.input_shape))
        rows["weights"] = "yes" if result.has_weights else "none yet"
    if result.graph is not None:
        rows |= _graph_rows(result.graph, verbose)
    else:
        rows["model.onnx"] = "none yet"
    return rows


def attention_view(picture: AttentionPicture) -> RenderableType:
    """Where the picture is, and what is on it."""
    rows = {"picture": f"{picture.path}, {picture.image} as {picture.name} attends to it"}
    if picture.predicted is not None:
        rows["predicted"] = f"{picture.predicted.name} ({picture.predicted.probability:.1%})"
    for layer in picture.layers:
        height, width = layer.weights.shape[-2:]
        heads, queries = ", ".join(map(str, layer.heads)), " ".join(f"{r},{c}" for r, c in layer.pixels)
        rows[f"layer {layer.layer}"] = f"map {height}×{width}, heads {heads}, queries {queries}"
    return Facts(rows | ({"note": "\n".join(picture.notes)} if picture.notes else {}))


def list_view(
    zoo: Mapping[str, InspectResult],
    decompositions: Mapping[str, str],
    datasets: Mapping[str, str],
    providers: Mapping[str, str],
) -> RenderableType:
    """What there is, a table for each kind of it, and what the figures mean."""
    headers = ("model", "parameters", "MACs", "attention", "input", "data set", "weights")
    return Group(
        Table(headers, (_model(name, entry) for name, entry in zoo.items()), texts=(0, 4, 5, 6)),
        Words(
            "MACs are those of one image, attention's products among them. Train a model without weights first.",
            "dim",
        ),
        Words(),
        Table(("decomposition", "how relative attention is written out"), decompositions.items(), prose=True),
        Words(),
        Table(("data set", "where it comes from"), datasets.items(), prose=True),
        Words(),
        Table(("execution provider", "on this machine"), providers.items(), prose=True),
        Words("A provider works if it ran a session just now; onnxruntime lists the others all the same.", "dim"),
    )


def _model(name: str, entry: InspectResult) -> tuple[str, ...]:
    assert entry.recipe is not None
    assert entry.cost is not None
    return (
        name,
        f"{entry.cost.parameters:,}",
        _count(entry.cost.macs),
        _count(entry.cost.attention_macs),
        "×".join(str(size) for size in entry.recipe.input.shape),
        entry.recipe.data.dataset,
        "yes" if entry.has_weights else "–",
    )


def _count(value: int) -> str:
    """With the unit that people give such counts in."""
    if value == 0:
        return "–"
    return f"{value / 1e9:.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _input(image: Input) -> str:
    classes = f", {image.classes:,} classes" if image.classes else ""
    return f"{_shape(('batch', *image.shape))}{classes}"


def _graph_rows(graph: GraphSummary, verbose: bool) -> dict[str, Cell]:
    heads = [tensor.name for tensor in graph.outputs if head_of(tensor.name)]
    macs = "not known: a shape is missing" if graph.macs is None else f"{graph.macs:,} an image"
    return {
        "file": f"{graph.path} ({size_with(graph.bytes, bool(graph.data_files))})",
        **({"data": "\n".join(map(str, graph.data_files))} if graph.data_files else {}),
        "opset": f"{graph.opset}, written by {graph.producer or 'an unnamed producer'}",
        "operators": histogram(graph.operators),
        "initializers": f"{graph.parameters:,} floating-point numbers in the file",
        "graph's MACs": macs,
        "inputs": "; ".join(_tensor(tensor) for tensor in graph.inputs),
        "outputs": "; ".join(_tensor(tensor) for tensor in graph.outputs if head_of(tensor.name) is None),
        **({"attention": listed(heads)} if heads else {}),
        "metadata": "\n".join(_metadata(graph.metadata, verbose)) or "none",
    }


def _metadata(entries: Mapping[str, str], verbose: bool) -> Iterator[str]:
    """A line an entry; what few people read is only counted, or left to the page, unless `verbose`."""
    digests = [key for key in entries if key.startswith("aaexport.") and key.endswith(DIGESTS)]
    for key, value in entries.items():
        if verbose:
            yield f"{key} = {value}"
        elif key not in (*digests, DRAWN):
            yield f"{key} = {value if len(value) <= SHORT else f'{value[: SHORT - 1]}…'}"
    if digests and not verbose:
        yield f"{len(digests)} digest{'s' if len(digests) > 1 else ''}, which `aaexport -v inspect` shows"


def histogram(operators: Mapping[str, int]) -> str:
    """How many nodes, and how many of each operator."""
    total = sum(operators.values())
    return f"{total} node{'' if total == 1 else 's'}: " + ", ".join(
        f"{count} {name}" for name, count in operators.items()
    )


def _tensor(tensor: TensorInfo) -> str:
    return f"{tensor.name} {tensor.dtype} {_shape(tensor.shape)}"


def _shape(sizes: tuple[int | str | None, ...]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in sizes) + ")"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count:,} bytes"
