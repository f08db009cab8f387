"""A model as a service has it: its facts at one version, under its names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aaexport.folder import Dtype
from aaexport.serving.facts import ImageInput, ModelFacts
from aaexport.serving.golden import Query, parts
from aaexport.serving.repository import RepositorySettings
from aaexport.serving.shared_memory import image_bytes, needed_bytes


@dataclass(frozen=True)
class Served:
    """A model at one version: its facts, how it is served, and which of its folder's files it is."""

    facts: ModelFacts
    version: int
    settings: RepositorySettings
    dtype: Dtype = "float32"

    @property
    def names(self) -> tuple[str, ...]:
        """Under which it answers: tensors, and images where it takes them."""
        return (self.facts.name,) if self.image is None else (self.facts.name, self.facts.image_name)

    @property
    def image(self) -> ImageInput | None:
        """What it makes images fit by."""
        return self.facts.image if self.settings.images else None

    def available(self, *versions: int) -> Served:
        """The same with these versions to be loaded."""
        return replace(self, settings=replace(self.settings, versions=versions))

    @property
    def instances(self) -> dict[str, int]:
        """By name, how many there are."""
        counts = (self.settings.instances, 1)
        return dict(zip(self.names, counts, strict=False))

    @property
    def questions(self) -> Iterator[Query]:
        """Its golden vectors, in batches that it takes."""
        return parts(self.facts.golden, None if self.facts.fixed_batch else self.settings.max_batch)

    @property
    def shared_bytes(self) -> int:
        """Of shared memory that its tensors need."""
        settings, takes_images = self.settings, self.image is not None
        if settings.backend != "python":  # the server's own backend computes in the server's process
            return image_bytes(self.facts) if takes_images else 0
        return needed_bytes(self.facts, settings.max_batch, settings.instances, images=takes_images)
