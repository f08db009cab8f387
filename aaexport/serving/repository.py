"""Facts of a model → the files of a Triton model repository: configuration, version folder, labels, warm-up.

    NAME/config.pbtxt                      tensors in, tensors out
    NAME/labels.txt                        where the classes have names
    NAME/warmup/…                          a golden vector, answered before the model is ready
    NAME/1/model.onnx, model.onnx.….data   and model.py, faults.py, at_work.py beside them for the Python backend
    NAME_image/config.pbtxt                an image file in; class, label and probability out
    NAME_image/1/model.py, faults.py, at_work.py, pixels.py, image.json

`aaexport serve` and `aaexport deploy --to triton|kserve` write the same files; only `RepositorySettings.backend`
differs: `python` runs onnxruntime in a file of ours, `onnxruntime` is the backend that NVIDIA's container has.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from aaexport import pixels
from aaexport.device import parse_device
from aaexport.errors import ArgumentError, FolderError, broken_rule
from aaexport.serving import at_work
from aaexport.serving.facts import ImageInput, ModelFacts, ServedTensor
from aaexport.serving.pbtxt import Message, Word, entries, text_of
from aaexport.writing import atomic_path

Files: TypeAlias = dict[str, "str | bytes | Path"]

BACKEND_FILES = Path(__file__).parent / "backend"
MOST_IMAGE_BYTES = 2**25
MOST_IMAGE_PIXELS = 2**26  # 8192 × 8192: what decodes to more is refused by its head
DIGEST_KEY = "onnx_sha256"
THREADS_KEY = "intra_op_thread_count"  # the onnxruntime backend's own word, read by ours too


@dataclass(frozen=True)
class Batching:
    """Requests that wait share a run, up to `max_batch`.

    Attributes:
        max_delay: seconds that a request may wait for others; a lone client pays all of it.
        preferred: numbers of images at which a run begins at once.
    """

    max_delay: float = 0.0
    preferred: tuple[int, ...] = ()


@dataclass(frozen=True)
class RepositorySettings:
    """How models are to be served.

    Attributes:
        backend: see above.
        max_batch: images of one run, where the file takes any number.
        batching: None where every request runs by itself; only files that take any number of images batch.
        instances: sessions at work.
        threads: of each; None leaves it to onnxruntime.
        device: `cpu`, `cuda` or `cuda:N`.
        optimization: the configuration's section of that name, as TensorRT and CUDA graphs are asked for.
        parameters: more of the configuration's parameters, by key.
        versions: that are to be available; none for the highest alone.
        images: whether `NAME_image` is written where the recipe has preprocessing.

    Raises:
        ArgumentError: a number below its least.
    """

    backend: Literal["python", "onnxruntime"] = "python"
    max_batch: int = 32
    batching: Batching | None = field(default_factory=Batching)
    instances: int = 1
    threads: int | None = None
    device: str = "cpu"
    optimization: Message = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[int, ...] = ()
    images: bool = True

    def __post_init__(self) -> None:
        for name in ("max_batch", "instances"):
            if getattr(self, name) < 1:
                raise ArgumentError(broken_rule(name, "be at least 1", getattr(self, name)))
        if self.threads is not None and self.threads < 1:
            raise ArgumentError(broken_rule("threads", "be at least 1", self.threads))
        if self.batching is not None and self.batching.max_delay < 0:
            raise ArgumentError(broken_rule("max_delay", "be at least 0", self.batching.max_delay))
        parse_device(self.device)


def on_cuda(*before: Message) -> Message:
    """The section `optimization` of onnxruntime's own backend on a GPU: what may compute there, CUDA's provider last.

    Its products in TF32 are off, because golden vectors are of float32.
    """
    cuda: Message = {"name": "cuda", "parameters": entries({"use_tf32": "0", "cudnn_conv_use_max_workspace": "1"})}
    return {"execution_accelerators": {"gpu_execution_accelerator": [*before, cuda]}}


def repository_files(facts: ModelFacts, settings: RepositorySettings, version: int = 1) -> Files:
    """All files of one model by their paths in the repository: text, bytes, or the file to be copied there."""
    files = model_files(facts, settings, version)
    if settings.images and facts.image is not None:
        files |= image_files(facts, facts.image, settings, version)
    return files


def model_files(facts: ModelFacts, settings: RepositorySettings, version: int = 1, name: str = "") -> Files:
    """Those of the model that takes tensors; `name` where it is to be called otherwise than its folder."""
    name = name or facts.name
    files: Files = {f"{name}/config.pbtxt": text_of(model_config(facts, settings, name))}
    files |= {f"{name}/warmup/{file}": content for file, content in _warmup_files(facts).items()}
    if _labels(facts):
        files[f"{name}/labels.txt"] = _labels(facts)
    inside = f"{name}/{version}"
    files[f"{inside}/model.onnx"] = facts.onnx
    # The file names its numbers by this name, whatever the version is called.
    files |= {f"{inside}/{file.relative_to(facts.onnx.parent)}": file for file in facts.data_files}
    if settings.backend == "python":
        files[f"{inside}/model.py"] = BACKEND_FILES / "tensors.py"
        files |= _helpers(inside)
    return files


def image_files(facts: ModelFacts, image: ImageInput, settings: RepositorySettings, version: int = 1) -> Files:
    """Those of the model that takes image files, which asks that version of the other; it needs NumPy and Pillow."""
    inside = f"{facts.image_name}/{version}"
    about: dict[str, Any] = dataclasses.asdict(image) | {
        "model": facts.name,
        "version": version,
        "input": facts.inputs[0].name,
        "most_bytes": MOST_IMAGE_BYTES,
        "most_pixels": MOST_IMAGE_PIXELS,
    }
    return {
        f"{facts.image_name}/config.pbtxt": text_of(image_config(facts, image, settings.versions)),
        f"{inside}/model.py": BACKEND_FILES / "images.py",
        **_helpers(inside),
        f"{inside}/pixels.py": Path(pixels.__file__),
        f"{inside}/image.json": json.dumps(about, ensure_ascii=False, indent=2) + "\n",
    }


def _helpers(inside: str) -> Files:
    """What both backends of ours import, beside them."""
    return {f"{inside}/faults.py": BACKEND_FILES / "faults.py", f"{inside}/at_work.py": Path(at_work.__file__)}


def write_files(files: Files, root: Path, *, link: bool = False) -> None:
    """Writes them below `root`, each at once or not at all; with `link` files that are copied become links.

    What is there already is not touched: a server takes a version that was written to for another.

    Raises:
        FolderError: nothing can be written there.
    """
    for name, content in files.items():
        try:
            _write_file(root / name, content, link)
        except OSError as error:
            raise FolderError(f"{root / name} cannot be written: {error.strerror or error}") from error


def _write_file(path: Path, content: str | bytes | Path, link: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path) and link:
        if not (path.is_symlink() and path.resolve() == content.resolve()):
            path.unlink(missing_ok=True)
            path.symlink_to(content.resolve())
    elif isinstance(content, Path):
        with atomic_path(path) as temporary:
            shutil.copyfile(content, temporary)
    else:
        _write_bytes(path, content.encode() if isinstance(content, str) else content)


def _write_bytes(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def require_distinct(models: Sequence[ModelFacts]) -> None:
    """ArgumentError where two models, or one and another's `NAME_image`, would be served under one name."""
    names = [name for facts in models for name in _names(facts)]
    for name in names:
        if names.count(name) > 1:
            rule = "have names of their own, each with NAME_image where its recipe has images"
            raise ArgumentError(broken_rule("models", rule, f"{name} twice", "rename a folder"))


def _names(facts: ModelFacts) -> list[str]:
    return [facts.name] if facts.image is None else [facts.name, facts.image_name]


def model_config(facts: ModelFacts, settings: RepositorySettings, name: str) -> Message:
    """config.pbtxt of the model that takes tensors, as a value.

    Dynamic batching never has a queue policy: with one instance Triton then stalls for half a second now and then.
    """
    batches = facts.batched
    parameters = {DIGEST_KEY: facts.onnx_sha256, **settings.parameters}
    if settings.threads is not None:
        parameters[THREADS_KEY] = str(settings.threads)
    if settings.backend == "python":
        parameters["device"] = settings.device
        parameters["max_batch"] = str(settings.max_batch)
    return {
        "name": name,
        "backend": settings.backend,
        "default_model_filename": "model.py" if settings.backend == "python" else "model.onnx",
        "max_batch_size": settings.max_batch if batches else 0,
        "input": [_port(tensor, batches) for tensor in facts.inputs],
        "output": [_output(tensor, facts, batches) for tensor in facts.outputs],
        "instance_group": [_instances(settings)],
        **({"dynamic_batching": _batching(settings.batching)} if batches and settings.batching else {}),
        "version_policy": _policy(settings.versions),
        "model_warmup": _warmup(facts, batches),
        "parameters": entries({key: {"string_value": value} for key, value in parameters.items()}),
        **({"optimization": settings.optimization} if settings.optimization else {}),
    }


def image_config(facts: ModelFacts, image: ImageInput, versions: Sequence[int] = ()) -> Message:
    """config.pbtxt of the model that takes image files.

    Bytes go in as UINT8, and labels come out as rows of UINT8, UTF-8 filled up with zeros: with NumPy 2 Triton's
    Python backend dies of strings that come in, and loses those that go out.
    """
    answers = (
        ("class", "TYPE_INT64", [image.top]),
        ("label", "TYPE_UINT8", [image.top, image.label_bytes]),
        ("probability", "TYPE_FP32", [image.top]),
    )
    return {
        "name": facts.image_name,
        "backend": "python",
        "default_model_filename": "model.py",
        "max_batch_size": 0,
        "input": [{"name": "image", "data_type": Word("TYPE_UINT8"), "dims": [-1]}],
        "output": [{"name": name, "data_type": Word(kind), "dims": dims} for name, kind, dims in answers],
        "instance_group": [{"kind": Word("KIND_CPU"), "count": 1}],
        "version_policy": _policy(versions),
        "parameters": entries({DIGEST_KEY: {"string_value": facts.onnx_sha256}}),
    }


def _port(tensor: ServedTensor, batches: bool) -> Message:
    dims = list(tensor.shape[1:] if batches else tensor.shape)
    if dims:
        return {"name": tensor.name, "data_type": Word(f"TYPE_{tensor.datatype}"), "dims": dims}
    # Triton has no shape without dimensions: one number is told as [1] and passed on as [].
    whole: Message = {"shape": []}
    return {"name": tensor.name, "data_type": Word(f"TYPE_{tensor.datatype}"), "dims": [1], "reshape": whole}


def _output(tensor: ServedTensor, facts: ModelFacts, batches: bool) -> Message:
    named = facts.image is not None and tensor.name == facts.image.scores
    return {**_port(tensor, batches), **({"label_filename": "labels.txt"} if named else {})}


def _labels(facts: ModelFacts) -> str:
    labels = () if facts.image is None else facts.image.labels
    return "".join(" ".join(label.split()) + "\n" for label in labels)


def _instances(settings: RepositorySettings) -> Message:
    kind, index = parse_device(settings.device)
    # Our own backend takes its device by itself: whether the server finds one, and which CUDA it has, is no matter.
    if kind == "cpu" or settings.backend == "python":
        return {"kind": Word("KIND_CPU"), "count": settings.instances}
    return {"kind": Word("KIND_GPU"), "count": settings.instances, "gpus": [index]}


def _batching(batching: Batching) -> Message:
    wanted: dict[str, Any] = {"max_queue_delay_microseconds": round(batching.max_delay * 1e6)}
    if batching.preferred:
        wanted["preferred_batch_size"] = list(batching.preferred)
    return wanted


def _policy(versions: Sequence[int]) -> Message:
    return {"specific": {"versions": list(versions)}} if versions else {"latest": {"num_versions": 1}}


def _warmup(facts: ModelFacts, batches: bool) -> list[Message]:
    if not facts.golden:
        return []
    inputs: dict[str, Message] = {}
    for place, tensor in enumerate(facts.inputs):
        array = facts.golden[0].inputs[tensor.name]
        dims = array.shape[1:] if batches else array.shape
        kind = Word(f"TYPE_{tensor.datatype}")
        inputs[tensor.name] = {"data_type": kind, "dims": list(dims), "input_data_file": f"golden_{place}"}
    return [{"name": "golden", "batch_size": 1, "inputs": entries(inputs)}]


def _warmup_files(facts: ModelFacts) -> dict[str, bytes]:
    if not facts.golden:
        return {}
    arrays = [facts.golden[0].inputs[tensor.name] for tensor in facts.inputs]
    batches = facts.batched
    return {f"golden_{place}": (array[:1] if batches else array).tobytes() for place, array in enumerate(arrays)}
