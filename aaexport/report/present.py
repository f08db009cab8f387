"""A result of any verb → each format that its command has: the `Presenter` of the whole package.

One function a format, one line a type of result; `aaexport/__init__.py` hands this module to `aaexport.outcome`.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from rich.console import RenderableType

from aaexport.load.measurement import BenchReport
from aaexport.outcome import Outcome
from aaexport.parity import ParityReport
from aaexport.report import machine, notebook, terminal, training, tuning
from aaexport.report.bench import as_json
from aaexport.report.bench.html import bench_html
from aaexport.report.bench.terminal import bench_view
from aaexport.report.deployment import deploy_view
from aaexport.report.layout import as_text
from aaexport.report.model.optimize_page import optimize_html
from aaexport.report.optimize import optimize_view
from aaexport.report.page.markup import join
from aaexport.report.parity.junit import parity_junit
from aaexport.report.parity.markdown import parity_markdown
from aaexport.report.parity.terminal import parity_view
from aaexport.report.training_page import training_page
from aaexport.results import AttentionPicture, ConvertResult, DeployResult, InspectResult, OptimizeResult, TuneResult
from aaexport.training import TrainingComparison, TrainResult


def text(result: Outcome) -> str:
    """As the command prints it into a pipe, without the line break at the end."""
    return as_text(_view(result))


def fragment(result: Outcome) -> str:
    """For a cell of a notebook; the page or the picture with it where there is one."""
    shown = notebook.fragment(_view(result))
    if isinstance(result, BenchReport):
        return join([shown, notebook.framed_page(bench_html(result))])
    if isinstance(result, AttentionPicture):
        return join([notebook.picture(result.path), shown])
    return shown


@singledispatch
def values(result: Outcome) -> dict[str, Any]:
    """As the command's --json has it."""
    raise _unknown(result)


@singledispatch
def markdown(result: Outcome) -> str:
    """As the command's --markdown, or its table, has it."""
    raise _unknown(result)


def raw_values(result: Outcome) -> dict[str, Any]:
    """As the command's --json --raw has it."""
    if not isinstance(result, BenchReport):
        raise _unknown(result)
    return as_json.bench_json(result, raw=True)


def junit(result: Outcome) -> str:
    """As the command's --junit writes it."""
    if not isinstance(result, ParityReport):
        raise _unknown(result)
    return parity_junit(result)


@singledispatch
def page(result: Outcome) -> str:
    """As the command's --report or --page writes it, or `train` its train.html."""
    raise _unknown(result)


@singledispatch
def _view(result: Outcome) -> RenderableType:
    raise _unknown(result)


def _unknown(result: Outcome) -> TypeError:
    return TypeError(f"a {type(result).__name__} has no such format")


_view.register(ConvertResult, terminal.convert_view)
_view.register(ParityReport, parity_view)
_view.register(OptimizeResult, optimize_view)
_view.register(DeployResult, deploy_view)
_view.register(InspectResult, terminal.inspect_view)
_view.register(AttentionPicture, terminal.attention_view)
_view.register(BenchReport, bench_view)
_view.register(TuneResult, tuning.tuning_view)
_view.register(TrainResult, training.train_view)
_view.register(TrainingComparison, training.comparison_markdown)

values.register(ConvertResult, machine.convert_json)
values.register(ParityReport, machine.parity_json)
values.register(OptimizeResult, machine.optimize_json)
values.register(DeployResult, machine.deploy_json)
values.register(InspectResult, machine.inspect_json)
values.register(AttentionPicture, machine.attention_json)
values.register(TrainResult, training.train_json)
values.register(TrainingComparison, training.comparison_json)
values.register(BenchReport, lambda report: as_json.bench_json(report, raw=False))
values.register(TuneResult, lambda result: tuning.tuning_json(result, raw=False))

markdown.register(ParityReport, parity_markdown)
markdown.register(TrainingComparison, training.comparison_markdown)

page.register(BenchReport, bench_html)
page.register(OptimizeResult, optimize_html)
page.register(TrainResult, lambda result: training_page([result]))
page.register(TrainingComparison, lambda comparison: training_page([model.result for model in comparison.models]))
