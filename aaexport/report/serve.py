"""What a service is when it is ready, or is to serve after a rollback → the lines that say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aaexport.folder import Dtype

SCHEMA = "aaexport.serve/1"


def serve_text(facts: Mapping[str, Any]) -> str:
    """For people: where it answers, and what."""
    lines = [
        "ready: golden vectors were answered right over REST and gRPC",
        f"  REST     {facts['rest']}",
        f"  gRPC     {facts['grpc']}",
        f"  metrics  {facts['metrics']}",
    ]
    for model in facts["models"]:
        lines.append(
            f"  model    {model['name']}, version {model['version']}, at most {model['max_batch']} images a query"
        )
        if model["image"] is not None:
            lines.append(f"  model    {model['image']}, a JPEG or PNG file a query")
    return "\n".join(lines)


def rollback_text(folder: Path, before: int, now: int) -> str:
    """For people: which version is to be served, and which no longer."""
    return f"{folder}: version {now} is to be served instead of {before}; a running service follows"


def rollback_json(folder: Path, dtype: Dtype, before: int, now: int) -> dict[str, Any]:
    """The same in JSON's types."""
    about = {"path": str(folder), "dtype": dtype, "from": before, "to": now}
    return {"schema": SCHEMA, "event": "rollback", "name": folder.resolve().name, **about}
