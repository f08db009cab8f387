"""What trainings come to, epoch by epoch → train.html in the folder of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aaexport.cli.page import write_page
from aaexport.errors import first_line
from aaexport.folder import ModelFolder

if TYPE_CHECKING:
    from aaexport.training import TrainResult


class TrainingPage:
    """Is told what a training has come to, and writes the page anew, with the curves of all models.

    That a page cannot be drawn or written ends no training: it is said, once for each reason.

    Attributes:
        written: the pages that are there by now.
        remarks: what else a reader should know; the pages that are written from then on tell it.
    """

    def __init__(self, folders: Sequence[ModelFolder], note: Callable[[str], None]) -> None:
        self.folders, self.note = folders, note
        self.results: dict[ModelFolder, TrainResult] = {}
        self.written: list[Path] = []
        self.remarks: list[str] = []
        self._said: set[str] = set()

    def __call__(self, result: TrainResult) -> None:
        """One epoch of one of them is done."""
        try:
            self._write(result)
        except Exception as error:  # noqa: BLE001  whatever it is, hours of training must not end with it
            line = f"train.html was not written, the training goes on: {first_line(error)}"
            if line not in self._said:
                self.note(line)
            self._said.add(line)

    def _write(self, result: TrainResult) -> None:
        from aaexport.report.training_page import training_page

        self.results[ModelFolder(result.folder)] = result
        results = [self.results[folder] for folder in self.folders if folder in self.results]
        page = training_page(results, self.remarks)
        for folder in self.results:
            write_page(folder.training_page_path, page, folder.training_page_path.name)
        self.written = [folder.training_page_path for folder in self.results]
