"""(model folder, target) → a folder of files by which that system serves the model, and such a folder → its check."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Unpack

from aaexport.deployment.artefact import Check, found
from aaexport.deployment.manifest import NAME as MANIFEST
from aaexport.deployment.manifest import Manifest, differences, files_in, read_manifest
from aaexport.deployment.placing import placed, replaced_files, require_room
from aaexport.deployment.settings import TARGET_SETTINGS, DeploySettings
from aaexport.deployment.targets import TARGETS
from aaexport.errors import DeploymentError, FolderError, RunnerError, broken_rule, did_you_mean, first_few
from aaexport.folder import Dtype, ModelFolder, find_model, sha256
from aaexport.graph.files import file_digest, read_data_files
from aaexport.graph.precision.tensorrt import require_symmetric
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.pipeline.deploy.evidence import as_measured
from aaexport.pipeline.deploy.options import DeployOptions, DeployOverrides
from aaexport.pipeline.subject.made_golden import can_be_made, write_made_golden
from aaexport.pipeline.subject.own_golden import why_unguarded, with_own_answers
from aaexport.results import DeployResult
from aaexport.runners.ort import OrtRunner
from aaexport.serving.facts import ModelFacts
from aaexport.serving.golden import parts
from aaexport.serving.judge import why_wrong
from aaexport.serving.reading import read_facts
from aaexport.serving.repository import Files, write_files

Say = Callable[[str], None]
NAMED = 3  # failed checks, in an error
DECIDED_ELSEWHERE = (
    "force",
    "unbatched",
    "runtime_files",
    "fetch_runtime",
)  # of the options; all others are settings


@verb
def deploy(
    model: str | Path | ModelFolder,
    to: str,
    out: str | Path,
    *,
    options: DeployOptions | None = None,
    say: Say = lambda line: None,
    **overrides: Unpack[DeployOverrides],
) -> DeployResult:
    """Writes what serves a converted model elsewhere, once it has passed its check; else nothing is written.

    Args:
        model: a model folder, or a zoo name, with a model.onnx.
        to: `triton`, `kserve`, `ray` or `container`, or `web`, a static page that runs the model in the browser.
        out: the folder: new, empty, or a deployment that nobody has changed since, which is then replaced at once.
        options: how it is to run.
        say: is told each step as it begins, and each changed file that is replaced.
        overrides: fields of `DeployOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an option breaks its rule, means nothing to the target, or does not suit the file.
        DataError: a peak search cannot be read, or is of something else.
        DeploymentError: a check failed.
        FolderError: no model.onnx, or `out` holds what is not to be replaced, or cannot be written.
        GraphError, RunnerError: the file cannot be served, or not even run.
        ProviderError: for the web, onnxruntime-web is not at hand.
        ExportError, ParityError: for the web, the file with attention as outputs cannot be written, or is not right.
    """
    options = overridden(options or DeployOptions(), overrides, deploy)
    options.check(to)
    folder, out = model if isinstance(model, ModelFolder) else find_model(model), Path(out)
    require_room(out)
    say(f"reading {folder.path}")
    dtype = options.dtype or "float32"
    guarded = _guard(folder, dtype)
    facts, about_golden = _with_golden(read_facts(folder, folder.onnx_of(dtype)), folder)
    if options.tensorrt:
        require_symmetric(facts.onnx)
    settings, notes = _settings(facts, folder, to, options)
    with _material(folder, facts, to, settings, options, say) as material:
        say("asking the golden vectors")
        facts, answers = _answers(material.facts, dtype)
        tried, about_trial = material.tried(facts)
        said = (*about_golden, *notes, *material.notes, *about_trial)
        return _written(
            facts, material.files(facts), out, to, settings, options, (*guarded, *answers, *tried), said, say
        )


@dataclass(frozen=True)
class _Material:
    """What a target is made of: the facts of its file, what makes the target's files of them, and what else tries it.

    `tried` gives checks and notes; `notes` are what a user should know before.
    """

    facts: ModelFacts
    files: Callable[[ModelFacts], Files]
    tried: Callable[[ModelFacts], tuple[tuple[Check, ...], tuple[str, ...]]] = lambda facts: ((), ())
    notes: tuple[str, ...] = ()


@contextmanager
def _material(
    folder: ModelFolder, facts: ModelFacts, to: str, settings: DeploySettings, options: DeployOptions, say: Say
) -> Iterator[_Material]:
    """It may lie in a temporary folder, as long as the block lasts. Raises as `shown`, for the web."""
    files = TARGETS[to].files
    if files is not None:
        yield _Material(facts, lambda facts: files(facts, settings))
        return
    from aaexport.pipeline.deploy.site import shown
    from aaexport.pipeline.deploy.trial import tried_in_browser

    with shown(folder, facts, options, say) as what:
        made = cache(lambda facts: replace(what, facts=facts).files())  # its runtime takes seconds to pack

        def tried(facts: ModelFacts) -> tuple[tuple[Check, ...], tuple[str, ...]]:
            say("asking them in a browser")
            return tried_in_browser(made(facts), sum(query.batch for query in facts.golden))

        yield _Material(what.facts, made, tried, what.notes)


def _written(
    facts: ModelFacts,
    files: Files,
    out: Path,
    to: str,
    settings: DeploySettings,
    options: DeployOptions,
    checks: tuple[Check, ...],
    notes: tuple[str, ...],
    say: Say,
) -> DeployResult:
    """The folder, once what lies in it has passed its check."""
    replaced = replaced_files(out, files, force=options.force)
    for name in replaced:
        say(f"replacing {out / name}, which is not as it was written")
    say(f"writing {out}")
    with placed(out, lambda: replaced_files(out, files, force=options.force)) as new:
        write_files(files, new)
        _require_same(facts)
        digests = {name: sha256(path) for name, path in files_in(new).items()}
        Manifest(to, facts.name, facts.onnx_sha256, _told(settings, to), digests).write(new)
        result = _result(new, out, checks=(*checks, *_checks(new)), notes=notes, replaced=replaced)
        require_passed(result, "was not written")
    return result


@verb
def check_deployment(path: str | Path) -> DeployResult:
    """Looks whether a deployment is as it was written, and fit for what it is for; writes nothing.

    Raises:
        FolderError: the folder holds none.
    """
    root = Path(path)
    return _result(root, root, checks=_checks(root))


def _settings(
    facts: ModelFacts, folder: ModelFolder, to: str, options: DeployOptions
) -> tuple[DeploySettings, tuple[str, ...]]:
    """What was asked for, for the rest what was measured, for the rest the target's own."""
    device = options.device or "cpu"
    unbatched = None if options.unbatched is None else Path(options.unbatched)
    given = {name: value for name, value in asdict(options).items() if value is not None}
    given = {name: value for name, value in given.items() if name not in DECIDED_ELSEWHERE}
    bench = folder.bench_of(options.dtype or "float32")
    measured, notes = as_measured(facts.onnx_sha256, bench, unbatched, device)
    if to == "ray":
        measured = replace(measured, min_replicas=2, max_replicas=4)  # one host may go
    # One bound that was given moves the other, which was not.
    least = min(measured.min_replicas, given.get("max_replicas", measured.min_replicas))
    most = max(measured.max_replicas, given.get("min_replicas", measured.max_replicas))
    settings = replace(measured, **{"min_replicas": least, "max_replicas": most} | given)
    if settings.threads is None and "cpus" in TARGET_SETTINGS[to]:
        # onnxruntime counts the cores of the host, of which a replica has its own few.
        settings = replace(settings, threads=settings.cpus)
    if settings.batching and not facts.batched:
        batch = "of its own" if facts.fixed_batch is None else f"of {facts.fixed_batch}"
        remedy = "convert it with a dynamic batch"
        raise DeploymentError(
            broken_rule("batching", "be left out for this file", f"one with a batch {batch}", remedy)
        )
    if options.batching is not None:
        notes = (f"{'batching' if settings.batching else 'no batching'}, as asked for",)
    notes = notes if facts.batched else ("no batching: the file fixes its batch",)
    return settings, notes if to not in ("container", "web") else ()


def _told(settings: DeploySettings, to: str) -> dict[str, Any]:
    """Those that mean something to the target."""
    return {name: value for name, value in asdict(settings).items() if name in TARGET_SETTINGS[to]}


def _with_golden(facts: ModelFacts, folder: ModelFolder) -> tuple[ModelFacts, tuple[str, ...]]:
    """The facts with golden vectors, made from the folder's weights where none fit, and what to say of that."""
    if facts.golden:
        return facts, ()
    if not can_be_made(folder):
        return facts, ("nobody asked whether it answers right: there are no golden vectors that fit the file",)
    with tempfile.TemporaryDirectory(prefix="aaexport-") as room:
        path = Path(room) / folder.golden_path.name
        write_made_golden(folder, facts, path)
        made = read_facts(folder, facts.onnx, golden=path)
    return made, ("golden vectors were made from the folder's weights, as it has none that fit",)


def _guard(folder: ModelFolder, dtype: Dtype) -> tuple[Check, ...]:
    """That a file in float16 or int8 is known to have lost no more than it may; DeploymentError if it is not."""
    path = folder.onnx_of(dtype)
    if dtype == "float32" or not path.is_file():
        return ()
    fault = why_unguarded(folder, dtype, file_digest(path, read_data_files(path)))
    if fault is not None:
        raise DeploymentError(fault)
    return (Check("guard", True, f"{path.name} has passed it, by {folder.parity_of(dtype).name}"),)


def _answers(facts: ModelFacts, dtype: Dtype) -> tuple[ModelFacts, tuple[Check, ...]]:
    """The golden vectors, answered by the very file that is deployed, through onnxruntime on this machine's CPU.

    Those of a file in float16 or int8 are its own answers from here on, which are the same image by image.
    """
    if not facts.golden:
        return facts, ()
    wrong: list[str] = []
    try:
        with OrtRunner(facts.onnx) as runner:
            if dtype != "float32":
                facts = with_own_answers(facts, runner)
            alone = None if dtype == "float32" or facts.fixed_batch else 1
            for query in parts(facts.golden, alone):
                why = why_wrong(query, runner.infer(dict(query.inputs)), dtype)
                wrong += [] if why is None else [f"{why} on {query.name}"]
    except RunnerError as error:
        wrong.append(str(error))
    images = sum(query.batch for query in facts.golden)
    what = "right" if dtype == "float32" else "answered alike, alone and together,"
    return facts, (found("answers", wrong, f"{images} golden images {what} in onnxruntime"),)


def _require_same(facts: ModelFacts) -> None:
    """FolderError if the file is another by now: what was read of it and asked is of none that is deployed."""
    if file_digest(facts.onnx, facts.data_files) != facts.onnx_sha256:
        raise FolderError(f"{facts.onnx} must stay as it is while it is deployed, got another file; run it again")


def _checks(root: Path) -> tuple[Check, ...]:
    """Digests first, then what the target itself looks at."""
    manifest = read_manifest(root)
    if manifest.target not in TARGETS:
        remedy = did_you_mean(manifest.target, TARGETS)
        raise FolderError(broken_rule(f"target of {root / MANIFEST}", "be one of ours", manifest.target, remedy))
    try:
        other = differences(root, manifest.files)
    except OSError as error:
        raise FolderError(f"{error.filename or root} cannot be read: {error.strerror}") from error
    digests = found("files", [str(other)] if other else [], f"{len(manifest.files)} as they were written")
    return (digests, *TARGETS[manifest.target].check(root))


def _result(
    root: Path, out: Path, *, checks: tuple[Check, ...], notes: tuple[str, ...] = (), replaced: tuple[str, ...] = ()
) -> DeployResult:
    manifest = read_manifest(root)
    files = {name: path.stat().st_size for name, path in files_in(root).items() if path.is_file()}
    return DeployResult(
        out, manifest.target, manifest.model, manifest.onnx_sha256, dict(manifest.settings), files, checks, replaced,
        notes,
    )  # fmt: skip


def require_passed(result: DeployResult, consequence: str = "fails its check") -> None:
    """DeploymentError, with the result, if a check failed."""
    failed = [f"{check.name}: {check.found}" for check in result.checks if not check.passed]
    if failed:
        raise DeploymentError(f"{result.path} {consequence}: {first_few(failed, NAMED)}", result)
