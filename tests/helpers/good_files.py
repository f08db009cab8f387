"""The right files that the mutants are made of: small networks whose every part shows in their outputs."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from aaexport.folder import checkout, open_folder
from aaexport.graph.files import read_onnx
from aaexport.graph.metadata import read_metadata, write_metadata
from aaexport.graph.write import write_onnx
from aaexport.nn import AugmentedConv2d
from aaexport.nn.build import build_network, calibrate_normalization
from aaexport.pipeline.convert.convert import convert
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.verify import verify
from aaexport.weights.safetensors import save_weights

# dk = dv, so that keys and values may be confounded; more than one channel a head, so that their order matters.
ATTENTION = (("kappa = 0.25", "kappa = 0.5"), ("upsilon = 0.25", "upsilon = 0.5"))
DIGITS = (
    ("channels = [64, 128, 192]", "channels = [16, 16, 16]"),
    ("strides = [1, 2, 1]", "strides = [1, 2, 2]"),
    *ATTENTION,
    ("num_heads = 4", "num_heads = 2\nmin_dkh = 4"),
)
# Pooled attention whose result is enlarged by a whole factor, so that the file has a Resize; in stage 2 as many
# positions, 2 × 2, as a key has numbers, so that a transposed key still fits.
RESNET = (
    ("blocks = [3, 4, 6, 3]", "blocks = [1, 2, 1]\nwidth = 8"),
    ("kappa = 0.2", "kappa = 0.5"),
    ("upsilon = 0.1", "upsilon = 0.5"),
    ("num_heads = 8", "num_heads = 2\nmin_dkh = 4"),
    ("stages = [2, 3, 4]", "stages = [2, 3]"),
    ("height = 224", "height = 32"),
    ("width = 224", "width = 32"),
    ("labels = 1000", "labels = 10"),
    ('dataset = "imagenet"', 'dataset = "synthetic"'),
)
RECIPES = {"digits": ("aa_cnn3_digits", DIGITS), "resnet": ("aa_resnet50", RESNET)}


class TwoOutputs(nn.Module):
    """Somebody's module: no recipe, no square images, a Gelu, and two outputs that could be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = AugmentedConv2d(3, 16, dk=8, dv=8, num_heads=2, height=6, width=10, stride=2, bias=True)
        self.near, self.far = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = nn.functional.gelu(self.layer(x))
        return self.near(features), self.far(features)


class Heads(nn.Module):
    """Somebody's module of what a floor, ties and operators that ONNX leaves open could hide faults in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rare, self.places = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 2, 1)
        nn.init.normal_(self.rare.weight, std=0.01)
        nn.init.constant_(self.rare.bias, -4.595)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.stem(x).relu()
        largest = nn.functional.max_pool2d(features, 3, 1, 1)
        values, best = features.mean(1).flatten(1).topk(5, 1)
        places = torch.tanh(self.places(features)).permute(0, 2, 3, 1)
        warped = nn.functional.grid_sample(features, places, align_corners=False)
        nearest = nn.functional.interpolate(features, scale_factor=1.6, mode="nearest")
        peaks = features * (largest == features).float()
        return {
            "rare": self.rare(features).sigmoid(),
            "best": best,
            "values": values,
            "warped": warped,
            "nearest": nearest,
            "peaks": peaks,
            "features": features,
            "again": features,
        }


class Faint(nn.Module):
    """Somebody's module of scores that are smaller than kernels are accurate, whatever the size of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.faint = nn.InstanceNorm2d(3), nn.Conv2d(3, 4, 3)
        nn.init.normal_(self.faint.weight, std=0.05)
        nn.init.constant_(self.faint.bias, -18.0)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"faint": self.faint(self.norm(x)).sigmoid()}


class Masked(nn.Module):
    """Somebody's module of the best of scores beside huge masks."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, 6, 3)
        self.register_buffer("mask", torch.arange(6)[None, :, None, None] == 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.scores(x)
        return {
            "least": scores.masked_fill(self.mask, torch.finfo(scores.dtype).min).argmax(1),
            "far": scores.masked_fill(self.mask, -1e9).argmax(1),
        }


@dataclass(frozen=True)
class GoodFile:
    """`path` in a folder of its own, made of the model folder that it lies in, or of `module`."""

    path: Path
    module: nn.Module | None = None
    input_shape: tuple[int, int, int] | None = None

    def verify(self, file: Path, **options):
        """Of `file`, in the good file's folder or in a copy of it, against the model."""
        model = open_folder(file.parent) if self.module is None else self.module
        return verify(model, file, input_shape=self.input_shape, **options)


def make_good_files(root: Path, export_again: Callable) -> Mapping[str, GoodFile]:
    """One of every kind, by name, each in a folder of `root`.

    `digits` is written by the decomposition `fold` and `resnet` by `table`, both at opset 20; `module` holds an
    `Attention`, of opset 23; `heads`, `faint` and `masked` have no attention. `export_again` is aaexport's, or
    remembers what it gave.
    """
    resnet = _of_recipe("resnet", root / "resnet", decomposition="table")
    return {
        "digits": _of_recipe("digits", root / "digits", decomposition="fold"),
        "resnet": resnet,
        "resnet by torch": _without_the_rules(resnet, root / "resnet_by_torch", export_again),
        "module": _of_module(TwoOutputs, (3, 6, 10), root / "module"),
        "heads": _of_module(Heads, (3, 6, 10), root / "heads", opset=20),
        "faint": _of_module(Faint, (3, 6, 10), root / "faint", opset=20),
        "masked": _of_module(Masked, (3, 6, 10), root / "masked", opset=20),
    }


def _of_recipe(name: str, path: Path, **settings) -> GoodFile:
    folder = _folder(name, path)
    convert(folder, verify=False, **settings)
    return GoodFile(folder.onnx_path)


def _of_module(kind: type[nn.Module], input_shape: tuple[int, int, int], path: Path, *, opset: int = 23) -> GoodFile:
    path.mkdir(parents=True)
    torch.manual_seed(0)
    module = kind()
    _bring_to_life(module, input_shape)
    convert(module, path / "model.onnx", input_shape=input_shape, decomposition="fused", opset=opset, verify=False)
    return GoodFile(path / "model.onnx", module, input_shape)


def _folder(name: str, path: Path):
    zoo_name, changes = RECIPES[name]
    folder = checkout(zoo_name, path)
    for trained in (folder.weights_path, folder.golden_path, folder.training_log_path):
        trained.unlink(missing_ok=True)
    text = folder.recipe_path.read_text()
    for old, new in changes:
        assert old in text, f"{zoo_name} no longer says {old}"
        text = text.replace(old, new)
    folder.recipe_path.write_text(text)
    network = build_network(folder.recipe, seed=0)
    _bring_to_life(network, folder.recipe.input.shape)
    save_weights(network, folder.weights_path)
    return folder


@torch.no_grad()
def _bring_to_life(module: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Fresh attention averages, and fresh normalization neither scales nor shifts: both would hide faults."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, AugmentedConv2d):
            part.qkv.weight[: 2 * part.dk] *= 4
            part.projection.weight *= 4
        elif isinstance(part, nn.BatchNorm2d):
            part.weight.copy_(1 + 0.25 * torch.randn(part.weight.shape, generator=generator))
            part.bias.copy_(0.25 * torch.randn(part.bias.shape, generator=generator))
    calibrate_normalization(module, input_shape, 0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(0.25 * torch.randn(part.bias.shape, generator=generator))


def _without_the_rules(good: GoodFile, path: Path, export_again: Callable) -> GoodFile:
    """The same as torch's exporter wrote it: with normalizations, and the queries' scale as a product."""
    shutil.copytree(good.path.parent, path)
    subject = as_subject(open_folder(path))
    metadata = read_onnx(good.path).metadata_props
    provenance = read_metadata({entry.key: entry.value for entry in metadata})
    exported = export_again(subject, provenance)
    write_metadata(exported.written_by_torch, provenance, subject.recipe.input)
    write_onnx(exported.written_by_torch, path / good.path.name)
    return replace(good, path=path / good.path.name)
