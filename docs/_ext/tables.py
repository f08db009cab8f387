"""Code → Markdown: what the reference says of recipes, folders, tolerances, rules, the zoo and errors."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aaexport
from aaexport import errors

PACKAGE = Path(aaexport.__file__).parent
RESULTS = Path(__file__).parents[1] / "results"
COMPUTED_BY = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "tf32": "CUDA with TF32",
    "tensorrt": "TensorRT",
    "openvino": "OpenVINO",
    "webgpu": "WebGPU",
}
# A network as the paper prints it: its name, the zoo's, millions of parameters, GFLOPs.
PAPER = (
    ("ResNet-34", "resnet34", "21.8 M", "7.4"),
    ("AA-ResNet-34", "aa_resnet34", "20.7 M", "7.1"),
    ("ResNet-50", "resnet50", "25.6 M", "8.2"),
    ("AA-ResNet-50", "aa_resnet50", "25.8 M", "8.3"),
    ("ResNet-101", "resnet101", "44.5 M", "15.6"),
    ("AA-ResNet-101", "aa_resnet101", "45.4 M", "16.1"),
    ("ResNet-152", "resnet152", "60.2 M", "23.0"),
    ("AA-ResNet-152", "aa_resnet152", "61.6 M", "23.8"),
    ("AA-ResNet-50, κ = υ = 0.25", "aa_resnet50_kv025", "24.3 M", "7.9"),
    ("AA-ResNet-50, κ = υ = 0.5", "aa_resnet50_kv050", "22.3 M", "7.3"),
    ("AA-ResNet-50, κ = υ = 0.75", "aa_resnet50_kv075", "20.7 M", "6.8"),
    ("AA-ResNet-50, κ = υ = 1", "aa_resnet50_kv100", "19.4 M", "6.3"),
    ("Wide-ResNet-28-10", "wrn28_10_cifar100", "36.3 M", "10.4"),
    ("AA-Wide-ResNet-28-10", "aa_wrn28_10_cifar100", "36.2 M", "10.9"),
    ("the reference's AA-Wide-ResNet-28-10", "aa_wrn28_10_reference", "(206,229,580)", ""),
    ("MnasNet-A1", "mnasnet_1_0", "", ""),
    ("AA-MnasNet-A1", "aa_mnasnet_1_0", "", ""),
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown; what means something to Markdown is escaped, but for code."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    parts = " ".join(str(value).replace("|", "\\|").split()).split("`")
    # Every other part stands between backticks.
    return "`".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))


def first_sentence(text: str | None) -> str:
    """Of a docstring: its first line."""
    return (text or "").strip().partition("\n")[0]


def tolerances() -> str:
    """Every row of the tolerance table."""
    from aaexport.parity import TOLERANCES

    head = ("type, computed by", "atol", "rtol", "× PyTorch's own", "or units in the last place", "why")
    return table(
        head,
        (
            (
                f"{precision}, {COMPUTED_BY[runtime]}",
                f"{row.atol:g}",
                f"{row.rtol:g}",
                f"{row.ratio:g}",
                f"{row.floor_ulps:g}",
                row.reason,
            )
            for (precision, runtime), row in TOLERANCES.items()
        ),
    )


def thresholds() -> str:
    """Every threshold of the guard."""
    from aaexport.parity.thresholds import AT_LEAST, THRESHOLDS, shown

    head = ("measure", "of a file in", "must be", "why")
    rows = (
        (measure, kind, f"{'≥' if measure in AT_LEAST else '≤'} {shown(measure, row.bound)}", row.reason)
        for (measure, kind), row in THRESHOLDS.items()
    )
    return table(head, rows)


def _ways() -> dict[str, list[dict[str, Any]]]:
    """Way to fewer bits → what came of it, a network after the other."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads((RESULTS / "guard_ways.json").read_text(encoding="utf-8"))["files"]:
        found.setdefault(one["way"], []).append(one)
    return found


def guard_ways() -> str:
    """What right and wrong ways to fewer bits lost of trained networks: SQNR, KL and the same likeliest class."""
    from aaexport.parity.thresholds import Measure, shown

    measures: tuple[Measure, ...] = ("SQNR", "KL", "top-1")
    should = {True: "pass", False: "fail", None: "–"}
    ways = _ways()
    networks = list(dict.fromkeys(one["network"] for found in ways.values() for one in found))
    rows = []
    for way, found in ways.items():
        cells = {
            one["network"]: " · ".join(shown(measure, one["worst"].get(measure)) for measure in measures)
            + ("" if one["passed"] else " · fails")
            for one in found
        }
        rows.append((way, should[found[0]["is_right"]], *(cells.get(network, "–") for network in networks)))
    return table(("way", "should", *(f"`{network}`" for network in networks)), rows)


def guard_accuracy() -> str:
    """Accuracy on held-out images, with what is left of the answers, of the files that aaexport writes."""
    from aaexport.binomial import exact_interval

    head = ("network", "held-out images", "float32", "float16", "int8", "int8 for TensorRT")
    kept = [_ways()[way] for way in ("float16, ours", "int8, ours", "int8 symmetric, ours")]
    rows = []
    for files in zip(*kept, strict=True):
        count = files[0]["images"]

        def share(right: float, count: int = count) -> str:
            of = exact_interval(round(right * count), count)
            return f"{100 * right:.2f} % ({100 * of.low:.1f}–{100 * of.high:.1f})"

        reduced = (f"{share(one['accuracy'])}, {one['worst']['SQNR']:.1f} dB" for one in files)
        rows.append((f"`{files[0]['network']}`", count, share(files[0]["float32"]), *reduced))
    return table(head, rows)


def guard_faults() -> str:
    """Faults that were put into right files, how many of them the guard found, and by what."""
    head = ("fault", "in a file in", "networks", "found", "by")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in map(json.loads, (RESULTS / "guard_sweep.jsonl").read_text(encoding="utf-8").splitlines()):
        if "fault" in line:
            name = re.sub(r", \d+ of \d+$", "", line["fault"])
            kind = line["dtype"] + (", TensorRT" if line.get("target") == "cuda" else "")
            found.setdefault((name, kind), []).append(line)
    rows = (
        (
            *fault,
            len({line["model"] for line in lines}),
            f"{sum(not line['passed'] for line in lines)} of {len(lines)}",
            ", ".join(sorted({measure for line in lines for measure in line["failed_by"]})),
        )
        for fault, lines in sorted(found.items())
    )
    return table(head, rows)


def kernels() -> str:
    """Operators whose kernels are accurate by the size of 1, or of all that they are given."""
    from aaexport.parity import KERNELS

    head = ("operator", "units in the last place of 1.0", "why")
    return table(head, ((f"`{name}`", f"{units:g}", reason) for name, (units, reason) in KERNELS.items()))


def wrappers() -> str:
    """What is taken off a module, by the name of its class."""
    from aaexport.capture.wrappers import WRAPPERS

    return ", ".join(f"`{name}`" for name in WRAPPERS) + "\n"


def exit_codes() -> str:
    """Codes and when a command ends with them."""
    from aaexport.cli.main import INTERRUPTED

    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.AaexportError)]
    rows: list[tuple[object, object, object]] = [(0, "success", "")]
    meaning = {
        1: "an error: something is missing, cannot be read or cannot be done",
        2: "wrong usage: an option or argument breaks its rule, and nothing was begun",
        3: "parity failed: the file computes something else, and replaces none; or a deployment fails its check",
        4: "the measurement is not valid, or a regression is real, or there can be no verdict on one",
        5: "the device or execution provider that was asked for does not work here",
        6: "a live service cannot be reached, refuses, or does not speak the Open Inference Protocol",
        7: "`aaexport serve` answers wrongly, or not at all, and cannot be brought back: start it again",
        INTERRUPTED: "interrupted by Ctrl-C, SIGTERM or a closed terminal: no unfinished file was left behind",
    }
    found = sorted({one.exit_code for one in classes} | {INTERRUPTED})
    if set(found) != set(meaning):
        raise ValueError(
            f"exit codes must be {sorted(meaning)}, got {found}: say in docs/_ext/tables.py what they mean"
        )
    for code in found:
        names = ", ".join(f"`{one.__name__}`" for one in classes if one.exit_code == code)
        rows.append((code, meaning[code], names))
    return table(("code", "means", "raised in Python as"), rows)


def model_toml() -> str:
    """Every table and key of model.toml, with type, default and what its class says."""
    from aaexport.recipe import model, module, network

    text = [f"{_prose(model.Recipe)}\n", _keys(model.Recipe)]
    for section in (model.Attention, model.Input, model.Data, model.Training, model.Export):
        text += [f"### `[{section.table}]`\n", f"{_prose(section)}\n", _keys(section)]
    text += ["### `[network]`\n", "Which keys it has depends on the family.\n"]
    for name, family in network.FAMILIES.items():
        text += [f'#### `family = "{name}"`\n', f"{_prose(family)}\n", _keys(family)]
    text += [
        "### `[module]`\n",
        "Instead of `[network]` and what goes with it, in a folder that was made of your own module.\n",
    ]
    text += [f"{_prose(module.Module)}\n", _keys(module.Module)]
    return "\n".join(text)


def _prose(thing: object) -> str:
    return inspect.getdoc(thing) or ""


def _keys(section: Any) -> str:
    hints = typing.get_type_hints(section)
    rows = []
    for field in dataclasses.fields(section):
        kind = hints[field.name]
        if dataclasses.is_dataclass(_bare(kind)) or field.name == "network":
            continue
        default = "required" if field.default is dataclasses.MISSING else f"`{_toml(field.default)}`"
        rows.append((f"`{field.name}`", _kind(kind), default))
    return table(("key", "type", "default"), rows)


def _bare(kind: Any) -> Any:
    options = [one for one in typing.get_args(kind) if one is not types.NoneType]
    is_union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return options[0] if is_union and len(options) == 1 else kind


def _kind(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_kind(one) for one in arguments if one is not types.NoneType)
    if origin is typing.Literal:
        return ", ".join(f"`{_toml(one)}`" for one in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}s"
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}[kind]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if value is None:
        return "none"
    return f'"{value}"' if isinstance(value, str) else str(value)


def folder() -> str:
    """The files of a model folder, as its class names them."""
    from aaexport.folder import ONNX_FILES, PARITY_FILES, ModelFolder

    rows = []
    for name, member in vars(ModelFolder).items():
        if isinstance(member, property) and name.endswith("_path"):
            file, _, meaning = (inspect.getdoc(member) or "").partition(": ")
            rows.append((f"`{file}`", meaning.rstrip(".")))
    for dtype, name in ONNX_FILES.items():
        if dtype != "float32":
            rows.append(
                (f"`{name}`", f"the same network in {dtype}, made of model.onnx by `convert --dtype {dtype}`")
            )
            rows.append((f"`{PARITY_FILES[dtype]}`", f"the last verification of {name}"))
    return table(("file", "what it is"), rows)


def zoo() -> str:
    """Every zoo model with what it costs."""
    from aaexport.pipeline.look.inspect import inspect_zoo

    rows = []
    for name, found in inspect_zoo().items():
        assert found.recipe is not None
        assert found.cost is not None
        shape = "×".join(map(str, found.recipe.input.shape))
        attention = f"{found.cost.attention_macs / 1e6:,.1f}" if found.cost.attention_macs else "–"
        rows.append(
            (
                f"`{name}`",
                found.recipe.description,
                shape,
                f"{found.cost.parameters:,}",
                f"{found.cost.macs / 1e6:,.1f}",
                attention,
                "yes" if found.has_weights else "train first",
            )
        )
    head = ("model", "what it is", "input", "parameters", "MACs, millions", "of them attention's products", "weights")
    return table(head, rows)


def counts() -> str:
    """Parameters and FLOPs, the paper's beside ours; attention's own products are counted apart."""
    from aaexport.pipeline.look.inspect import inspect_zoo

    zoo_models = inspect_zoo()
    rows = []
    for title, name, parameters, flops in PAPER:
        cost = zoo_models[name].cost
        assert cost is not None
        other, products = (2 * macs / 1e9 for macs in (cost.macs - cost.attention_macs, cost.attention_macs))
        counted = f"{cost.parameters:,}" if parameters.startswith("(") else f"{cost.parameters / 1e6:.2f} M"
        rows.append((title, parameters, counted, flops, f"{other:.2f}" + (f" + {products:.2f}" if products else "")))
    return table(("network", "paper: parameters", "aaexport", "paper: GFLOPs", "aaexport"), rows)


def decompositions() -> str:
    """The decompositions in one line each."""
    from aaexport.recipe import DECOMPOSITIONS

    return table(("name", "how"), ((f"`{name}`", text) for name, text in DECOMPOSITIONS.items()))


def data_sets() -> str:
    """The sources of images, with their keys of [data]."""
    from aaexport.recipe.data_sets import DATA_SETS, KEYS

    rows = [
        (f"`{name}`", text, ", ".join(f"`{key}`" for key in KEYS[name]) or "–") for name, text in DATA_SETS.items()
    ]
    return table(("`[data] dataset`", "what it is", "keys of its own"), rows)


def runtimes() -> str:
    """What `verify --runtimes` names."""
    from aaexport.pipeline.verify.options import RUNTIMES, USUAL

    rows = [(f"`{name}`", text, "yes" if name in USUAL["cpu"] else "") for name, text in RUNTIMES.items()]
    return table(("name", "what computes", "by default on the CPU"), rows)


def graph_rules() -> str:
    """Every rule in the order in which it is tried, with its maths."""
    from aaexport.graph.rules import CUDA_RULES, FILE_RULES, AttentionInBlocks

    text = []
    for rule in (*FILE_RULES, AttentionInBlocks, *CUDA_RULES):
        module = importlib.import_module(rule.__module__)
        text.append(f"## {rule.title}\n")
        text.append(f"`{Path(rule.__module__.replace('.', '/')).with_suffix('.py')}`\n")
        equation, _, prose = (inspect.getdoc(module) or "").partition("\n\n")
        text.append(f"```text\n{equation}\n```\n")
        text.append(f"{_with_literals(prose)}\n")
        if rule in CUDA_RULES:
            text.append("Applied for `--target cuda` alone.\n")
        for target, why in rule.no_gain.items():
            text.append(f"Not applied for `--target {target}`: {why}.\n")
    return "\n".join(text)


def _with_literals(prose: str) -> str:
    """Indented lines of a docstring as blocks, and no `*` taken for emphasis."""
    blocks = []
    for paragraph in prose.split("\n\n"):
        if paragraph.startswith("    "):
            blocks.append("```text\n" + inspect.cleandoc(paragraph) + "\n```")
        else:
            blocks.append(re.sub(r"(?<!`)\*(?!`)", r"\\*", paragraph))
    return "\n\n".join(blocks)


def adapters() -> str:
    """The sources of augmented layers that are known by their structure."""
    from aaexport.adapters import ADAPTERS

    def names(of: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in of)

    rows = [(one.title, names(one.modules), names((*one.attributes, *one.tables))) for one in ADAPTERS]
    return table(("whose layer", "its modules", "its attributes and tables"), rows)


def schemas() -> str:
    """Every schema of a JSON value, and the file that writes it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in re.findall(r'"(aaexport\.[a-z-]+/[0-9]+)"', path.read_text(encoding="utf-8")):
            found[name] = path.relative_to(PACKAGE.parent)
    return table(("schema", "written by"), ((f"`{name}`", f"`{path}`") for name, path in sorted(found.items())))


def error_tree() -> str:
    """The hierarchy as aaexport.errors draws it."""
    return f"```text\n{(errors.__doc__ or '').partition(chr(10) * 2)[2].rstrip()}\n```\n"
