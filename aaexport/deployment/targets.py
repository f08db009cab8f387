"""Where a model can be deployed to, by name."""

from __future__ import annotations

from aaexport.deployment import container, kserve, ray, triton, web
from aaexport.deployment.artefact import Target

TARGETS: dict[str, Target] = {
    "triton": triton.TARGET,
    "kserve": kserve.TARGET,
    "ray": ray.TARGET,
    "container": container.TARGET,
    "web": web.TARGET,
}
