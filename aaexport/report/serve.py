"""What a service is when it is ready → the lines that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
