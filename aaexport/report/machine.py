"""Results → JSON values. Each names its schema; a change that could break a reader raises its number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aaexport.parity import ParityReport
    from aaexport.parity.observation import Observation
    from aaexport.results import AttentionPicture, ConvertResult, DeployResult, InspectResult, OptimizeResult

PARITY_SCHEMA = "aaexport.parity/2"
CONVERT_SCHEMA = "aaexport.convert/1"
OPTIMIZE_SCHEMA = "aaexport.optimize/1"
INSPECT_SCHEMA = "aaexport.inspect/1"
ATTENTION_SCHEMA = "aaexport.attention/1"
DEPLOY_SCHEMA = "aaexport.deploy/1"
LIST_SCHEMA = "aaexport.list/1"
OBSERVATION_SCHEMA = "aaexport.observation/1"


def parity_json(report: ParityReport) -> dict[str, Any]:
    """Everything in the report, with the verdict first; docs/parity_schema.md tells what each field means."""
    verdict = {
        "schema": PARITY_SCHEMA,
        "passed": report.passed,
        "failures": report.failures,
        "broken_stage": report.broken_stage,
        "max_abs_error": report.max_abs_error,
        "max_error_ratio": report.max_error_ratio,
    }
    value: dict[str, Any] = strict(verdict | dataclasses.asdict(report))
    return value


def observation_json(observation: Observation) -> dict[str, Any]:
    """One event of `aaexport verify --follow`; docs/observation_schema.md tells what each field means."""
    value: dict[str, Any] = strict({"schema": OBSERVATION_SCHEMA, **dataclasses.asdict(observation)})
    return value


def strict(value: Any) -> Any:
    """A value as JSON has it: lists for tuples, and "NaN", "Infinity" and "-Infinity" for the numbers that it lacks.

    A null would say that there is no number; these strings are what protocol buffers write, and what `float` reads.
    """
    if isinstance(value, dict):
        return {key: strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def convert_json(result: ConvertResult) -> dict[str, Any]:
    """What was written, with the whole parity report."""
    value = dataclasses.asdict(result) | _files(result)
    value["parity"] = None if result.parity is None else parity_json(result.parity)
    return strict({"schema": CONVERT_SCHEMA, **value})  # type: ignore[no-any-return]


def optimize_json(result: OptimizeResult) -> dict[str, Any]:
    """What each rule did, with the whole comparison."""
    value = dataclasses.asdict(dataclasses.replace(result, parts=())) | _files(result)
    value["parity"] = None if result.parity is None else parity_json(result.parity)
    value["source"] = None if result.source is None else str(result.source)
    del value["parts"]  # for the page alone
    return {"schema": OPTIMIZE_SCHEMA, **value}


def _files(result: ConvertResult | OptimizeResult) -> dict[str, str | None]:
    return {"path": str(result.path), "data_file": None if result.data_file is None else str(result.data_file)}


def inspect_json(result: InspectResult) -> dict[str, Any]:
    """Cost, recipe and graph; null for what is not there."""
    value = dataclasses.asdict(result)
    value["path"] = str(result.path)
    if result.graph is not None:
        value["graph"]["path"] = str(result.graph.path)
        value["graph"]["data_files"] = [str(path) for path in result.graph.data_files]
    return {"schema": INSPECT_SCHEMA, **value}


def attention_json(picture: AttentionPicture) -> dict[str, Any]:
    """What was drawn, with the weights: `weights[query][head][row][column]` of each layer."""
    layers = [dataclasses.asdict(layer) | {"weights": layer.weights.tolist()} for layer in picture.layers]
    made = {"date": picture.date, "command": picture.command}
    value: dict[str, Any] = {**made, "path": str(picture.path), "image": str(picture.image), "model": picture.name}
    value["predicted"] = None if picture.predicted is None else dataclasses.asdict(picture.predicted)
    return {"schema": ATTENTION_SCHEMA, **value, "notes": list(picture.notes), "layers": layers}


def deploy_json(result: DeployResult) -> dict[str, Any]:
    """What was written or looked at, the verdict first."""
    value = dataclasses.asdict(result) | {"path": str(result.path)}
    return strict({"schema": DEPLOY_SCHEMA, "passed": result.passed} | value)  # type: ignore[no-any-return]


def list_json(
    zoo: Mapping[str, InspectResult],
    decompositions: Mapping[str, str],
    datasets: Mapping[str, str],
    providers: Mapping[str, str],
) -> dict[str, Any]:
    """The zoo with its costs, and what works on this machine."""
    models = {}
    for name, entry in zoo.items():
        assert entry.recipe is not None
        assert entry.cost is not None
        models[name] = {
            "description": entry.recipe.description,
            **dataclasses.asdict(entry.cost),
            "input_shape": list(entry.recipe.input.shape),
            "dataset": entry.recipe.data.dataset,
            "has_weights": entry.has_weights,
        }
    return {
        "schema": LIST_SCHEMA,
        "models": models,
        "decompositions": dict(decompositions),
        "datasets": dict(datasets),
        "providers": dict(providers),
    }
