"""An ONNX file and its model → what must come out of it, kept: what a live service is judged by again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from aaexport.errors import AaexportError, ArgumentError, FolderError, broken_rule
from aaexport.folder import ModelFolder, open_folder
from aaexport.graph.files import GraphSummary, converted_size, file_digest, parse_onnx, summarize
from aaexport.graph.metadata import read_metadata
from aaexport.parity import Truth
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.computations import Judge
from aaexport.pipeline.verify.inputs import Inputs
from aaexport.pipeline.verify.kinds import folder_file, is_reduced, judged_as
from aaexport.pipeline.verify.matrix import Matrix
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.rows import Row
from aaexport.pipeline.verify.verify import observed_as_converted
from aaexport.serving.versions import read_served
from aaexport.writing import identity

KEPT = 3  # files whose references are kept: a service may go back


@dataclass(frozen=True, eq=False)
class References:
    """What is known of one file, and the truth of every case."""

    digest: str
    summary: GraphSummary
    fixed: int | None
    inputs: Inputs
    judge: Judge
    truths: list[Truth]
    rows: tuple[Row, ...]


class WatchedFile:
    """A file that may be written anew while services of it are looked at.

    Raises:
        ArgumentError: it is in float16 or int8: what is computed here in float64 is not what such a file answers.
        FolderError: the folder has none in the dtype that was asked for.
        GraphError: it is no whole ONNX model.
    """

    def __init__(self, folder: ModelFolder, onnx: str | Path | None, options: VerifyOptions) -> None:
        own = folder.onnx_path if options.dtype is None else folder_file(folder, options.dtype)
        self.path = own if onnx is None else Path(onnx)
        if is_reduced(kind := judged_as(parse_onnx(self.path), options.dtype)):
            remedy = f"`aaexport serve --dtype {kind}` watches its own golden vectors"
            raise ArgumentError(broken_rule("follow", "go with a file in float32", kind, remedy))
        self._folder, self._options = folder, options
        self._is_folders_own = onnx is None
        self._known: dict[str, References] = {}
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

    def references(self, digest: str, size: tuple[int, int] | None) -> References | None:
        """By which the file of this digest is judged; None if it is gone, and was not looked at before.

        Raises as `verify`.
        """
        if digest not in self._known and digest == self.digest:
            self._known[digest] = self._computed(size)
            for old in list(self._known)[:-KEPT]:
                del self._known[old]
        return self._known.get(digest)

    def _computed(self, size: tuple[int, int] | None) -> References:
        # Opened anew: what a folder has read of its recipe it keeps.
        subject = as_subject(open_folder(self._folder.path), None, size or converted_size(self.path))
        subject = observed_as_converted(subject, read_metadata(self._summary.metadata))
        matrix = Matrix(subject, self._summary, replace(self._options, runtimes=["unoptimized"]))
        truths = matrix.judge.truths_of(matrix.cases)
        rows = matrix.rows(self.path, None, "file")
        return References(self.digest, self._summary, matrix.fixed, matrix.inputs, matrix.judge, truths, rows)
