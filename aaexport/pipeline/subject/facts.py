"""What the verbs must know of a model beside its module: all that takes no PyTorch where a folder's files tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self

from aaexport.errors import GraphError, RecipeError
from aaexport.folder import ModelFolder
from aaexport.graph.files import parse_onnx
from aaexport.graph.metadata import provenance_of
from aaexport.recipe import Recipe
from aaexport.weights.recorded import RANDOM_NOTE, are_random, recorded_digest

if TYPE_CHECKING:
    from aaexport.pipeline.subject.golden import Golden
    from aaexport.pipeline.subject.subject import ImageShape, Subject


class Facts(Protocol):
    """A `Subject`, or what its folder's files tell of it; the attributes are those of `Subject`."""

    @property
    def input_shape(self) -> ImageShape:
        """(C, H, W) of one image."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """In their order."""

    @property
    def folder(self) -> ModelFolder | None:
        """None for a bare module."""

    @property
    def recipe(self) -> Recipe | None:
        """Of the size that the module was built for; None for somebody's module."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it."""

    @property
    def with_attention(self) -> bool:
        """Whether attention weights are outputs too."""

    @property
    def golden(self) -> Golden | None:
        """The original's answers, where a folder has nothing else of it."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights."""

    @property
    def own_size(self) -> tuple[int, int] | None:
        """(H, W) if it is not the one in model.toml."""

    def as_converted(self, *, with_attention: bool) -> Self:
        """The same with attention weights among its outputs, if its file has them there."""

    def whole(self) -> Subject:
        """With its module, which loads PyTorch where that was not needed yet."""


@dataclass(frozen=True)
class FolderFacts:
    """Of a folder of ours whose model.onnx holds exactly the weights that lie there."""

    folder: ModelFolder
    recipe: Recipe
    output_names: tuple[str, ...]
    weights_digest: str
    notes: tuple[str, ...] = ()
    with_attention: Literal[False] = False
    golden: None = None

    @property
    def input_shape(self) -> ImageShape:
        """(C, H, W) of one image."""
        return self.recipe.input.shape

    @property
    def own_size(self) -> tuple[int, int] | None:
        """(H, W) if it is not the one in model.toml."""
        return self.folder.other_size(self.recipe)

    def as_converted(self, *, with_attention: bool) -> FolderFacts:
        """Itself: `facts_of` knows nothing of folders whose file has attention weights among its outputs."""
        assert not with_attention
        return self

    def whole(self) -> Subject:
        """With its module."""
        from aaexport.pipeline.subject.subject import as_subject

        return as_subject(self.folder, size=self.recipe.input.size)


def facts_of(folder: ModelFolder, size: tuple[int, int] | None) -> FolderFacts | None:
    """What the files of a folder tell of its model, for images of `size` (H, W), the recipe's by default.

    None where they do not tell it all: model.onnx is not there or of other weights, somebody's module, attention
    weights as outputs. Then the module itself must be asked.
    """
    if folder.module_recipe is not None or not (folder.onnx_path.is_file() and folder.weights_path.is_file()):
        return None
    try:
        recipe = folder.recipe.for_size(size)
        model = parse_onnx(folder.onnx_path)
    except (GraphError, RecipeError):
        return None  # whoever converts says why
    provenance, digest = provenance_of(model), recorded_digest(folder.weights_path)
    if provenance is None or provenance.with_attention or digest is None or provenance.weights_digest != digest:
        return None
    notes = (RANDOM_NOTE,) if are_random(folder.weights_path) else ()
    return FolderFacts(folder, recipe, tuple(output.name for output in model.graph.output), digest, notes)
