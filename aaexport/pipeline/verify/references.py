"""An ONNX file and its model → what must come out of it, kept: what a live service is judged by again and again.

Of a file in float32 that is what the model computes in float64. One in float16 or int8 says itself what it answers
(`own_references` in this wing), once its guard has passed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aaexport.errors import AaexportError, FolderError
from aaexport.folder import ModelFolder, open_folder
from aaexport.graph.files import GraphSummary, converted_size, file_digest, parse_onnx, summarize
from aaexport.graph.metadata import read_metadata
from aaexport.parity import Truth
from aaexport.parity.thresholds import ReducedKind
from aaexport.pipeline.subject.own_golden import why_unguarded
from aaexport.pipeline.subject.subject import Subject, as_subject
from aaexport.pipeline.verify.computations import Judge
from aaexport.pipeline.verify.feeding import fixed_batch
from aaexport.pipeline.verify.guarded import gather_evidence
from aaexport.pipeline.verify.inputs import Inputs
from aaexport.pipeline.verify.kinds import check_guarded, folder_file, is_reduced, judged_as
from aaexport.pipeline.verify.matrix import Matrix
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.own_references import OwnReferences
from aaexport.pipeline.verify.rows import Row
from aaexport.pipeline.verify.service_rows import with_rows_of
from aaexport.pipeline.verify.services import Service
from aaexport.pipeline.verify.verify import judge_file
from aaexport.runners.ort import OrtRunner
from aaexport.serving.runner import ServiceFacts
from aaexport.serving.versions import read_served
from aaexport.writing import identity

KEPT = 3  # files whose references are kept: a service may go back
LARGEST_SAMPLE = 4  # images that are drawn anew for a look


@dataclass(frozen=True, eq=False)
class References:
    """What is known of one file in float32, and the truth of every case."""

    digest: str
    summary: GraphSummary
    fixed: int | None
    inputs: Inputs
    judge: Judge
    truths: list[Truth]
    rows: tuple[Row, ...]
    faults: tuple[str, ...] = field(default=(), init=False)  # the service is asked, and not the file

    def asked(
        self, service: Service, number: int, chance: np.random.Generator, options: VerifyOptions
    ) -> tuple[Row, int]:
        """The row with what came of a sample, and how many images it had: one case, in turns, and images drawn anew.

        ServiceError if the service does not answer.
        """
        *_, row = with_rows_of([service], self.rows, self.summary, options)
        if row.failure is not None:
            return row, 0
        truths = [truth for truth in self.truths if row.takes(truth.case)]
        truth = truths[(number - 1) % len(truths)]
        images = len(truth.case.batch)
        with row.open() as runner:
            self.judge.judge_known(row, runner, truth)
            drawn = self.inputs.drawn(self.fixed or _sample(service.facts, chance), chance)
            if drawn is not None:
                batches = [(drawn, np.zeros(len(drawn), np.int64))]
                for _ in self.judge.judge_more(row, runner, batches, f"drawn anew, batch {len(drawn)}"):
                    images += len(drawn)
        return row, images


def _sample(facts: ServiceFacts, chance: np.random.Generator) -> int:
    most = min(facts.max_batch or LARGEST_SAMPLE, LARGEST_SAMPLE)
    return int(chance.integers(1, most + 1))


class WatchedFile:
    """A file that may be written anew while services of it are looked at.

    Raises:
        ArgumentError: it is in float16 or int8, and an option has no meaning for such a file.
        FolderError: the folder has none in the dtype that was asked for.
        GraphError: it is no whole ONNX model.
    """

    def __init__(self, folder: ModelFolder, onnx: str | Path | None, options: VerifyOptions) -> None:
        own = folder.onnx_path if options.dtype is None else folder_file(folder, options.dtype)
        self.path = own if onnx is None else Path(onnx)
        kind = judged_as(parse_onnx(self.path), options.dtype)
        if is_reduced(kind):
            check_guarded(options, kind)
        self._folder, self._options = folder, options
        self._is_folders_own = onnx is None
        self._known: dict[str, References | OwnReferences] = {}
        self._summary = summarize(self.path)
        self._seen = identity(self.path, self._summary.data_files)
        self.digest = file_digest(self.path, self._summary.data_files)

    def wanted(self) -> str:
        """The digest of what is to be served now: the file's, or of what was gone back to from that file.

        A file that is just being written is what it was before.
        """
        if identity(self.path, self._summary.data_files) != self._seen:
            try:
                summary = summarize(self.path)
                seen = identity(self.path, summary.data_files)
                self.digest = file_digest(self.path, summary.data_files)
                self._summary, self._seen = summary, seen
            except (AaexportError, OSError):
                return self.digest
        return self._gone_back_to() or self.digest

    def _gone_back_to(self) -> str | None:
        if not self._is_folders_own:
            return None
        try:
            served = read_served(self._folder.path)
        except FolderError:
            return None
        current = served.numbered(served.current)
        return current.onnx_sha256 if current is not None and self.digest in served.left else None

    def references(self, digest: str, size: tuple[int, int] | None) -> References | OwnReferences | None:
        """By which the file of this digest is judged; None if it is gone, and was not looked at before.

        Raises as `verify`.
        """
        if digest not in self._known and digest == self.digest:
            self._known[digest] = self._computed(size)
            for old in list(self._known)[:-KEPT]:
                del self._known[old]
        return self._known.get(digest)

    def _computed(self, size: tuple[int, int] | None) -> References | OwnReferences:
        # Opened anew: what a folder has read of its recipe it keeps.
        subject = as_subject(open_folder(self._folder.path), None, size or converted_size(self.path))
        provenance = read_metadata(self._summary.metadata)
        subject = subject.as_converted(with_attention=provenance is not None and provenance.with_attention)
        kind = judged_as(parse_onnx(self.path), self._options.dtype)
        if is_reduced(kind):
            return self._own(subject, kind)
        matrix = Matrix(subject, self._summary, replace(self._options, runtimes=["unoptimized"]))
        truths = matrix.judge.truths_of(matrix.cases)
        rows = matrix.rows(self.path, None, "file")
        return References(self.digest, self._summary, matrix.fixed, matrix.inputs, matrix.judge, truths, rows)

    def _own(self, subject: Subject, kind: ReducedKind) -> OwnReferences:
        """Of a file that its guard judges now, unless the folder's record says that it has passed it."""
        asked, summary = self._options, self._summary
        faults: tuple[str, ...] = ()
        if not self._is_folders_own or why_unguarded(self._folder, kind, self.digest) is not None:
            of_file = VerifyOptions(device=asked.device, dtype=kind, inputs=asked.inputs, seed=asked.seed)
            report, _ = judge_file(subject, self.path, of_file)
            faults = report.failures
        evidence = gather_evidence(subject, kind, asked.inputs, summary.macs, asked.seed)
        fixed, runner = fixed_batch(summary), OrtRunner(self.path, device=asked.device)
        return OwnReferences(self.digest, summary, kind, fixed, faults, evidence.images, runner, asked.device)
