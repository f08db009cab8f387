"""(model folder, image file) → a picture of what chosen heads attend to from chosen pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from aaexport.data import read_image, read_sample
from aaexport.data.decoding import require_pillow
from aaexport.errors import ArgumentError, RunnerError, broken_rule, did_you_mean
from aaexport.folder import ModelFolder
from aaexport.nn.attention_maps import outputs_and_attention, require_augmented_layers
from aaexport.nn.augmented import AugmentedConv2d
from aaexport.nn.memory import BYTES_IN_FLOAT32, require_memory
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.pipeline.look.options import Pixel, check_picture, sample_number
from aaexport.pipeline.subject.subject import as_subject
from aaexport.recipe import Recipe
from aaexport.report.attention_picture import Attended, attention_picture
from aaexport.results import AttentionPicture, LayerAttention, Prediction
from aaexport.writing import atomic_path


@verb
@own_settings()
def draw_attention(
    model: str | Path | ModelFolder,
    image: str | Path,
    path: str | Path,
    *,
    layers: Sequence[str] = (),
    queries: Sequence[Pixel] = (),
    heads: Sequence[int] = (),
) -> AttentionPicture:
    """Runs the PyTorch model on an image file and draws its attention weights beside the image, as SVG or PNG.

    All maps of a layer have one scale, in multiples of uniform attention. The image is cropped, resized and
    normalised as the images of the recipe's data set are when they are evaluated.

    Args:
        model: a zoo name or a model folder, with weights.
        image: any file that Pillow reads, or as a str `sample:N`: held-out image number N of the recipe's data set.
        path: the picture to write, a .svg or a .png; the latter needs Pillow.
        layers: paths of augmented layers, as in `attention.LAYER.headN`; the last one by default.
        queries: (row, column) in pixels of the network's input, counted from 0 at the top left; a layer's query is
            the position of its map that the pixel lies in. By default the centre and the centres of the quarters.
        heads: numbers from 0; all by default.

    Raises:
        ArgumentError: there is no such layer, head, pixel or sample, no attention at all, `model` is an ONNX file, or
            `path` names no new .svg or .png.
        DataError: the image cannot be read, the data set is not there, or Pillow is not and needed.
        NoWeightsError: the folder has not been trained yet.
        Others as `aaexport.build_model` raises for `model`.
    """
    path = Path(path)
    folder, form = check_picture(model, image, path, queries)
    if form == "png":
        require_pillow("a .png picture")
    seen = attend(folder, image, layers=layers, queries=queries, heads=heads)
    title = f"{seen.image} as {folder.name} attends to it"
    picture = attention_picture(seen.pixels, seen.layers, title=title, predicted=seen.predicted, form=form)
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)
    return AttentionPicture(path, Path(image), folder.name, seen.layers, seen.notes, seen.predicted)


def attend(
    folder: ModelFolder,
    image: str | Path,
    *,
    layers: Sequence[str] = (),
    queries: Sequence[Pixel] = (),
    heads: Sequence[int] = (),
) -> Attended:
    """What the network of a folder attends to in one image; arguments and errors as of `draw_attention`."""
    number = sample_number(image)
    subject = as_subject(folder)
    assert subject.recipe is not None
    chosen = _chosen_layers(require_augmented_layers(subject.module), layers)
    queries = tuple(dict.fromkeys(queries or _default_queries(subject.recipe.input.size)))
    _check_heads(heads, chosen)
    require_memory(subject.module, subject.input_shape, bytes_a_number=BYTES_IN_FLOAT32)
    if number is None:
        pixels, batch = read_image(Path(image), subject.recipe)
    else:
        pixels, batch = read_sample(number, subject.recipe, folder.path)
    outputs, weights = outputs_and_attention(subject.module, batch)
    drawn = tuple(
        _layer_attention(name, weights[name][0], queries, heads, subject.recipe.input.size) for name in chosen
    )
    predicted = _prediction(outputs, subject.recipe)
    return Attended(Path(image).name, pixels.permute(1, 2, 0).numpy(), drawn, predicted, subject.notes)


def _prediction(outputs: object, recipe: Recipe) -> Prediction | None:
    """Of the one image; None where the recipe names no classes."""
    if not recipe.input.classes:
        return None
    assert isinstance(outputs, torch.Tensor)
    shares = outputs[0].softmax(0)
    number = int(shares.argmax())
    name = recipe.input.names[number] if recipe.input.names else f"class {number}"
    return Prediction(number, name, float(shares[number]))


def _chosen_layers(layers: Mapping[str, AugmentedConv2d], names: Sequence[str]) -> dict[str, AugmentedConv2d]:
    for name in names:
        if name not in layers:
            raise ArgumentError(broken_rule("layer", "be an augmented one", name, did_you_mean(name, layers)))
    return {name: layers[name] for name in names or list(layers)[-1:]}


def _default_queries(size: tuple[int, int]) -> tuple[Pixel, ...]:
    (top, middle, bottom), (left, centre, right) = ((side // 4, side // 2, side * 3 // 4) for side in size)
    return (top, left), (top, right), (middle, centre), (bottom, left), (bottom, right)


def _check_heads(heads: Sequence[int], layers: Mapping[str, AugmentedConv2d]) -> None:
    for head in heads:
        for name, layer in layers.items():
            if not 0 <= head < layer.num_heads:
                raise ArgumentError(broken_rule("head", f"be from 0 to {layer.num_heads - 1} in {name}", head))


def _layer_attention(
    name: str, weights: torch.Tensor, queries: Sequence[Pixel], heads: Sequence[int], size: tuple[int, int]
) -> LayerAttention:
    """The chosen rows of one image's weights, (Nh, H, W, H, W)."""
    num_heads, height, width = weights.shape[:3]
    if not weights.isfinite().all():
        raise RunnerError(f"layer {name} attends with NaN or infinity; look at the weights of the model")
    chosen = tuple(dict.fromkeys(heads)) or tuple(range(num_heads))
    positions = tuple((row * height // size[0], column * width // size[1]) for row, column in queries)
    maps = torch.stack([weights[list(chosen), row, column] for row, column in positions])
    return LayerAttention(name, chosen, tuple(queries), positions, maps.numpy())
