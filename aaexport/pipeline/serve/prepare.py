"""A model folder → a conversion that is ready to be served: taken whole, and right about its golden vectors.

This runs in a process of its own, as it loads onnx and onnxruntime, and PyTorch where golden vectors have to be made:
the service itself stays small.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from aaexport.device import parse_device
from aaexport.errors import FolderError, ParityError, broken_rule
from aaexport.folder import DTYPES, ONNX_FILES, Dtype, ModelFolder, open_folder, sha256
from aaexport.memory import MEBIBYTE
from aaexport.pipeline.serve.order import Order, Prepared
from aaexport.pipeline.subject.made_golden import write_made_golden
from aaexport.pipeline.subject.own_golden import require_guarded, with_own_answers
from aaexport.serving.facts import ModelFacts
from aaexport.serving.golden import parts
from aaexport.serving.judge import why_wrong
from aaexport.serving.reading import read_facts
from aaexport.serving.versions import (
    Served,
    Version,
    go_to,
    holding,
    new_version,
    read_served,
    remove_unfinished,
    version_folder,
)
from aaexport.writing import temporary_folder


def prepare(order: Order) -> Prepared:
    """The conversion that the folder is to serve, checked through onnxruntime as it is to run.

    A file that was gone back from is not taken again: the current version is served instead. Which version is current
    is the service's to record, once it serves it.

    Raises:
        FolderError: something is missing, half-written, without golden vectors, not passed by its guard, or cannot be
            written.
        GraphError, RunnerError: the file is broken, or no runtime loads it.
        ParityError: it answers its own golden vectors wrongly.
    """
    folder = open_folder(order.folder)
    notes: list[str] = []
    with holding(order.keep):
        remove_unfinished(order.keep)
        version = _chosen(folder, order, notes)
        place = version_folder(order.keep, version.number)
        is_new = not place.exists()
        if is_new:
            _take(folder, order, place, notes)
        try:
            facts = read_facts(ModelFolder(place), _whole(place, order.dtype), name=folder.name)
            _require_recorded(facts, version)
            threads, tuned = _threads(folder, order)
            facts = _proved(facts, order, threads)
        except BaseException:
            if is_new:
                shutil.rmtree(place)
            raise
    return Prepared(facts, version, threads, (*notes, *tuned))


def _chosen(folder: ModelFolder, order: Order, notes: list[str]) -> Version:
    """The version that was asked for, the one of the folder's file, or a new one for it."""
    served = read_served(order.keep, order.dtype)
    if order.number is not None:
        return _kept(folder, order, served)
    digest = _facts_in_place(folder, order).onnx_sha256
    current, known = served.numbered(served.current), served.of_digest(digest)
    if digest in (*served.left, served.over) and current is not None and known is not None:
        remedy = f"`{go_to(folder.path, known.number, order.dtype)}` takes it again"
        how = "gone back from" if digest in served.left else "an older one than what was chosen"
        was = f"{ONNX_FILES[order.dtype]} was {how}; {remedy}"
        if not version_folder(order.keep, current.number).is_dir():
            raise FolderError(f"version {current.number} of {folder.path} must be kept in served/, got none; {was}")
        notes.append(f"{folder.path}: version {current.number} is served: {was}")
        return current
    return known or new_version(order.keep, served, digest)


def _kept(folder: ModelFolder, order: Order, served: Served) -> Version:
    """The version of the number that was asked for. FolderError if it is not there, or of another precision."""
    assert order.number is not None
    version, place = served.numbered(order.number), version_folder(order.keep, order.number)
    if place.is_dir() and not (place / ONNX_FILES[order.dtype]).is_file():
        rule, remedy = f"be in {order.dtype} to be served so", "name the precision that it has with --dtype"
        raise FolderError(f"version {order.number} of {folder.path} must {rule}, got another; {remedy}")
    if version is None or not place.is_dir():
        raise FolderError(f"version {order.number} of {folder.path} must be kept in {place}, got none")
    return version


def _whole(place: Path, dtype: Dtype) -> Path:
    """A version's ONNX file. FolderError if it is not there."""
    path = place / ONNX_FILES[dtype]
    if not path.is_file():
        raise FolderError(f"{place} must hold {path.name}, got none; delete {place}, and it is made anew")
    return path


def _facts_in_place(folder: ModelFolder, order: Order) -> ModelFacts:
    """Of the folder as it is now, whole by what its manifest says."""
    path = folder.onnx_of(order.dtype)
    if order.dtype != "float32" and not path.is_file():
        there = [dtype for dtype in DTYPES if folder.onnx_of(dtype).is_file()]
        rule = f"be one that {folder.path} has a file of ({', '.join(there) or 'none'})"
        raise FolderError(broken_rule("dtype", rule, order.dtype))
    facts = read_facts(folder, path)
    recorded = recorded_digest(folder, path.name)
    if recorded is not None and recorded != sha256(path):
        remedy = f"bring the manifest that goes with it, or run `aaexport convert {folder.path}` again"
        raise FolderError(f"{path} must be the file that manifest.json records, got another; {remedy}")
    require_guarded(folder, order.dtype, facts.onnx_sha256)
    return facts


def recorded_digest(folder: ModelFolder, name: str) -> str | None:
    """The SHA-256 that the folder's manifest has of a file; None if it has none."""
    try:
        manifest = json.loads(folder.manifest_path.read_text(encoding="utf-8"))
        return str(manifest["files"][name]["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None  # made by hand, or not recorded


def _take(folder: ModelFolder, order: Order, place: Path, notes: list[str]) -> None:
    """Copies what is to be served beside itself, with golden vectors, and moves it to its place when it is whole."""
    facts = _facts_in_place(folder, order)
    files = (folder.recipe_path, facts.onnx, *facts.data_files)
    require_room(place.parent, sum(file.stat().st_size for file in files))
    with temporary_folder(place.parent) as new:
        for file in files:
            target = new / file.relative_to(folder.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        golden = new / folder.golden_path.name
        if facts.golden:
            shutil.copyfile(folder.golden_path, golden)
        else:
            write_made_golden(folder, facts, golden)
            notes.append(f"{folder.path}: golden vectors were made from its weights, as there were none that fit")
        new.rename(place)


def _require_recorded(facts: ModelFacts, version: Version) -> None:
    """FolderError if what was copied, or kept, is not the file by whose digest the version is known."""
    if facts.onnx_sha256 != version.onnx_sha256:
        rule = f"be the file of version {version.number}"
        raise FolderError(f"{facts.onnx} must {rule}, got one that was written to; run it again, or delete served/")


def require_room(place: Path, needed: int) -> None:
    """FolderError if the disk has no room for so many bytes."""
    free = shutil.disk_usage(place).free
    if free < needed:
        rule = f"have {needed / MEBIBYTE:,.0f} MiB free for what is served"
        raise FolderError(f"{place} must {rule}, got {free / MEBIBYTE:,.0f} MiB")


def _threads(folder: ModelFolder, order: Order) -> tuple[int | None, tuple[str, ...]]:
    """What was asked for, what tuning.json says, or what the process may use."""
    from aaexport.cores import default_threads, usable_cores
    from aaexport.load.machine import MachineWatch
    from aaexport.report.tuned import tuned_threads

    if order.threads is not None:
        return order.threads, ()
    if order.instances > 1:
        return max(1, usable_cores() // order.instances), ()
    tuned = tuned_threads(folder.tuning_path) if folder.tuning_path.exists() else None
    if tuned is not None and tuned.why_not(parse_device(order.device)[0], 1, MachineWatch().environment()) is None:
        return tuned.threads, (f"{folder.path}: {tuned}",)
    return default_threads(), ()


def _verification(order: Order) -> str:
    """The command that tells what is wrong with the file that is to be served."""
    dtype = "" if order.dtype == "float32" else f" --dtype {order.dtype}"
    device = "" if order.device == "cpu" else f" --device {order.device}"
    return f"aaexport verify {order.folder}{dtype}{device}"


def _proved(facts: ModelFacts, order: Order, threads: int | None) -> ModelFacts:
    """The facts, once onnxruntime answers the golden vectors right, through a session like the service's.

    A file in float16 or int8, which its guard has passed, is then asked for its own answers, image by image: the
    service must give the same, however queries share its runs. ParityError if it does not answer right.
    """
    from aaexport.runners.ort import OrtRunner
    from aaexport.runners.ort_settings import SessionSettings

    # As the service: golden vectors are of float32, which products in TF32 miss on a GPU.
    with OrtRunner(facts.onnx, SessionSettings(threads=threads, tf32=False), device=order.device) as runner:
        if order.dtype != "float32":
            facts = with_own_answers(facts, runner)
        for query in parts(facts.golden, None if facts.fixed_batch else order.max_batch):
            wrong = why_wrong(query, runner.infer(dict(query.inputs)), order.dtype, parse_device(order.device)[0])
            if wrong is not None:
                remedy = f"run `{_verification(order)}`"
                raise ParityError(f"{order.folder} must answer its golden vectors, got {wrong}; {remedy}", None)
    return facts
