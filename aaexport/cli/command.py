"""A command of ours: its errors name options, its help has sections and examples, in what characters there are."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from aaexport.errors import AaexportError
from aaexport.report.printable import encodable

OTHERS = "Options"


class Complaint(click.ClickException):
    """An AaexportError in the words of the command line."""

    def __init__(self, error: AaexportError, options: Mapping[str, str]) -> None:
        super().__init__(error.worded(options))
        self.ends_with = error.exit_code


class Command(click.Command):
    """One command.

    Args:
        sections: headings for its help, each with the parameters whose options stand below it; the others come last.
        examples: (command line, what it does), shown at the end of its help.
    """

    def __init__(
        self,
        *arguments: Any,
        sections: Mapping[str, Sequence[str]] | None = None,
        examples: Sequence[tuple[str, str]] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.sections, self.examples = dict(sections or {}), tuple(examples)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it; what it complains of is called as a user typed it."""
        try:
            return super().invoke(ctx)
        except AaexportError as error:
            raise Complaint(error, options_by_name(self)) from error

    def get_help(self, ctx: click.Context) -> str:
        """In the characters that stdout has."""
        return encodable(super().get_help(ctx), encoding_of_stdout())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options below their headings."""
        heading_of = {name: heading for heading, names in self.sections.items() for name in names}
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*self.sections, OTHERS)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                found[heading_of.get(param.name or "", OTHERS)].append(record)
        for heading, records in found.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    pieces = textwrap.wrap(f"$ {line}", formatter.width - 8, break_on_hyphens=False)
                    before = " " * formatter.current_indent
                    formatter.write(before + f" \\\n{before}    ".join(pieces) + "\n")
                    with formatter.indentation():
                        formatter.write_text(meaning)


def options_by_name(command: click.Command) -> dict[str, str]:
    """What a user types, by the parameter's name, and by the option's own where that is another."""
    named: dict[str, str] = {}
    for param in command.params:
        if isinstance(param, click.Option):
            option = max(param.opts, key=len)
            named |= {option.removeprefix("--").replace("-", "_"): option, param.name or "": option}
    return named


def encoding_of_stdout() -> str:
    """UTF-8 where there is none."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"
