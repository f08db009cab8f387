"""What an exported file says about itself, in its metadata_props: where it came from and what it expects."""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import onnx

from aaexport.folder import tool_versions
from aaexport.graph.check import all_nodes
from aaexport.recipe import Input

PREFIX = "aaexport."
MODULE_PATH = "pkg.torch.onnx.name_scopes"  # of a node, in its own metadata: what the exporter writes
RULES_KEY = PREFIX + "rules"  # the one that a rewritten file of somebody else has too
BEFORE_KEY = PREFIX + "before_rules"  # operators as the exporter wrote them, by module


@lru_cache(maxsize=4096)  # a graph has a few paths, asked for at each of its nodes
def module_path(scopes: str) -> str | None:
    """The module that a node is of; None where `scopes`, its `MODULE_PATH`, do not tell.

    The exporter notes `['', 'features', 'features.0', 'conv2d']`: modules from the outermost on, and the call.
    """
    try:
        found = ast.literal_eval(scopes)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(found, list) or len(found) < 2 or not isinstance(found[-2], str):
        return None
    return found[-2]


def path_of(scopes: str, name: str) -> str | None:
    """As `module_path`, or by the node's name as older exporters give it; None where neither tells.

    `/features/features.0/conv/Conv_1` is of `features.0.conv`: a scope that begins with the one before replaces it.
    """
    path = module_path(scopes)
    if path is not None or "/" not in name:
        return path
    *modules, _ = name.strip("/").split("/")
    path = ""
    for module in filter(None, modules):
        path = module if not path or module.startswith(f"{path}.") else f"{path}.{module}"
    return path


@dataclass(frozen=True)
class Provenance:
    """The origin of an exported file. Digests are SHA-256; `recipe_digest` is None for a module without recipe."""

    weights_digest: str
    recipe_digest: str | None
    decomposition: str
    opset: int
    size: tuple[int, int] | None = None  # (H, W), where it is not the recipe's
    notes: tuple[str, ...] = ()  # what a user should know of the weights
    with_attention: bool = False  # whether attention weights are outputs too
    batch: int | str | None = None  # "dynamic" or the number that it was converted for; None in older files
    target: str | None = None  # what the graph rules were chosen for
    layers: Mapping[str, str] = field(default_factory=dict)  # path of each augmented layer → how it was written out
    max_attention_memory: float | None = None  # MiB, for which other attention was written in blocks of queries


def write_metadata(model: onnx.ModelProto, provenance: Provenance, image: Input | None) -> None:
    """Puts provenance, tool versions and, where there is a recipe, preprocessing and labels into the model.

    The exporter's own notes on every node (its stack traces, with paths of the exporting machine) are dropped.
    """
    entries = {
        "weights_digest": provenance.weights_digest,
        "decomposition": provenance.decomposition,
        "opset": str(provenance.opset),
        "tools": json.dumps(tool_versions(), sort_keys=True),
    }
    if provenance.recipe_digest is not None:
        entries["recipe_digest"] = provenance.recipe_digest
    if provenance.batch is not None:
        entries["batch"] = str(provenance.batch)
    if provenance.target is not None:
        entries["target"] = provenance.target
    if provenance.layers:
        entries["layers"] = json.dumps(dict(provenance.layers))
    if provenance.max_attention_memory is not None:
        entries["max_attention_memory"] = repr(provenance.max_attention_memory)
    if provenance.size is not None:
        entries["input.size"] = json.dumps(provenance.size)
    if provenance.with_attention:
        entries["with_attention"] = "true"
    if provenance.notes:
        entries["notes"] = json.dumps(provenance.notes, ensure_ascii=False)
    entries |= preprocessing(image)
    del model.metadata_props[:]
    for key, value in sorted(entries.items()):
        model.metadata_props.add(key=PREFIX + key, value=value)
    model.producer_name = "aaexport"
    model.producer_version = tool_versions().get("aaexport", "")
    _drop_node_notes(model)


def preprocessing(image: Input | None) -> dict[str, str]:
    """What a file tells whoever feeds it, and reads its answers; by key, without the prefix."""
    if image is None:
        return {}
    labels = {"labels": json.dumps(image.names)} if image.names else {}
    return {"input.mean": json.dumps(image.mean), "input.std": json.dumps(image.std), **labels}


def record_rules(model: onnx.ModelProto, applied: Mapping[str, int]) -> None:
    """Adds which graph rules were applied, and how often, to what the file says of itself already."""
    total = Counter(applied)
    for entry in [entry for entry in model.metadata_props if entry.key == RULES_KEY]:
        total.update(_read_counts(entry.value))
        model.metadata_props.remove(entry)
    if total:
        model.metadata_props.add(key=RULES_KEY, value=json.dumps(total, ensure_ascii=False))


def record_operators(model: onnx.ModelProto, before: Mapping[str, Mapping[str, int]]) -> None:
    """Adds which operators each module had before the graph rules."""
    told = {path: dict(operators) for path, operators in before.items()}
    model.metadata_props.add(key=BEFORE_KEY, value=json.dumps(told, ensure_ascii=False))


def operators_before(properties: Mapping[str, str]) -> dict[str, dict[str, int]] | None:
    """What `record_operators` added to a file's metadata; None where that is not there, or not whole."""
    told = read_object(properties.get(BEFORE_KEY, ""))
    if not told or not all(isinstance(operators, dict) for operators in told.values()):
        return None
    return {path: {k: v for k, v in each.items() if isinstance(v, int)} for path, each in told.items()}


def rules_applied(properties: Mapping[str, str]) -> dict[str, int]:
    """What `record_rules` added; empty where no rule was applied, or nobody told."""
    return _read_counts(properties.get(RULES_KEY, ""))


def _read_counts(text: str) -> dict[str, int]:
    return {k: v for k, v in read_object(text).items() if isinstance(v, int)}


def read_object(text: str) -> dict[str, Any]:
    """A JSON object of the metadata; empty for anything else, because anybody may have written it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_batch(text: str) -> int | str | None:
    return text if text == "dynamic" else int(text) if re.fullmatch(r"\d{1,9}", text) else None


def provenance_of(model: onnx.ModelProto) -> Provenance | None:
    """The provenance that a model carries; None for one that aaexport did not write."""
    return read_metadata({entry.key: entry.value for entry in model.metadata_props})


def read_metadata(properties: Mapping[str, str]) -> Provenance | None:
    """The provenance in a file's metadata_props; None for a file that aaexport did not write."""
    keys = ("weights_digest", "decomposition", "opset")
    found = [properties.get(PREFIX + key) for key in keys]
    weights_digest, decomposition, opset = found
    if weights_digest is None or decomposition is None or opset is None or not re.fullmatch(r"\d{1,9}", opset):
        return None
    size = _read_size(properties.get(PREFIX + "input.size", ""))
    return Provenance(
        weights_digest,
        properties.get(PREFIX + "recipe_digest"),
        decomposition,
        int(opset),
        size,
        with_attention=properties.get(PREFIX + "with_attention") == "true",
        batch=_read_batch(properties.get(PREFIX + "batch", "")),
        target=properties.get(PREFIX + "target"),
        layers={k: v for k, v in read_object(properties.get(PREFIX + "layers", "")).items() if isinstance(v, str)},
        max_attention_memory=_read_limit(properties.get(PREFIX + "max_attention_memory", "")),
    )


def _read_limit(text: str) -> float | None:
    try:
        limit = float(text)
    except ValueError:
        return None
    return limit if 0 < limit < math.inf else None


def _read_size(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"\[(\d{1,5}), (\d{1,5})\]", text)
    return None if found is None else (int(found[1]), int(found[2]))


def _drop_node_notes(model: onnx.ModelProto) -> None:
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    for node in all_nodes(model.graph):
        node.doc_string = ""
        scopes = [(entry.key, entry.value) for entry in node.metadata_props if entry.key == MODULE_PATH]
        del node.metadata_props[:]
        for key, value in scopes:
            node.metadata_props.add(key=key, value=value)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
