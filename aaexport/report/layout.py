"""Sentences, facts and tables → lines of any width: they wrap between words, and no name is ever cut or broken.

A name or a path that is longer than a line stays whole: a terminal breaks it where it must, and it can be copied.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from aaexport.report.printable import encodable, printable

Cell = str | Text  # a Text has one style
WIDTH = 110  # of what no terminal shows
GAPS = (3, 2, 1)  # between columns, the first that fits
COMFORTABLE = 2  # of them; tighter is for what has no other form
LEAST_OF_PROSE = 28  # so narrow a column of sentences can still be read
INDENT = "  "
_OF_A_FIGURE = re.compile(r"(?<=\d) (?=[^\W\d]|[×%°])")  # the blank between it and its unit


class Words:
    """Lines in one style, each of which wraps where a terminal ends, and nowhere in a pipe."""

    def __init__(self, text: Cell = "", style: str = "") -> None:
        self.text = Text(text, style) if isinstance(text, str) else text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in _lines(self.text, console.encoding):
            yield from [_whole(line)] if options.no_wrap else wrapped(line, options.max_width)


class Facts:
    """Names and values, without a frame; the values wrap beside the names."""

    def __init__(self, rows: Mapping[str, Cell]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        names = [encodable(printable(name), console.encoding) for name in self.rows]
        indent = max(map(cell_len, names), default=0) + len(INDENT)
        for name, value in zip(names, self.rows.values(), strict=True):
            lines = _lines(value, console.encoding)
            pieces = [piece for line in lines for piece in wrapped(line, options.max_width - indent)]
            for number, piece in enumerate(pieces):
                before = _padded(Text("" if number else name, "dim"), indent)
                yield _whole(Text.assemble(before, piece))


class Table:
    """Names and what belongs to each, in the first of these forms that fits.

    1. A row for each name, figures to the right. With `prose` the last column is sentences, which wrap.
    2. The same, each name on a line of its own above its figures, and the prose below them if it must.
    3. Below each name a list of its figures, each with its heading.

    `texts` are the columns beside the first whose cells are words, to the left.
    """

    def __init__(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        texts: Iterable[int] = (0,),
        prose: bool = False,
    ) -> None:
        self.headers = [Text(header, "bold") for header in headers]
        self.rows = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        self.texts, self.prose = {*texts, *([len(headers) - 1] if prose else ())}, prose
        self.rule = "─"

    def fits(self, width: int) -> bool:
        """Whether it has its first form in so many columns, comfortably."""
        return self._widths(COMFORTABLE, width) is not None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield from self._encodable(console.encoding)._formed(options.max_width)

    def _formed(self, width: int) -> Iterator[Text]:
        for gap in GAPS:
            if (widths := self._widths(gap, width)) is not None:
                yield self._row(self.headers, widths, gap)
                yield _whole(Text(self.rule * sum(widths)))
                for row in self.rows:
                    yield from self._wrapped(row, widths, gap)
                return
        for gap in GAPS[1:]:
            for below in (self._below(), *([self._figures()] if self.prose else [])):
                if (widths := below._widths(gap, width - len(INDENT))) is not None:
                    yield from self._each_below_its_name(below, widths, gap, width - len(INDENT))
                    return
        yield from self._listed(width)

    def _encodable(self, encoding: str) -> Table:
        headers, *rows = ([_encoded(cell, encoding) for cell in row] for row in (self.headers, *self.rows))
        table = Table([header.plain for header in headers], rows, texts=self.texts, prose=self.prose)
        table.rule = encodable(self.rule, encoding)
        return table

    def _widths(self, gap: int, width: int) -> list[int] | None:
        """Of the columns, each but the last with the gap behind it; None if they do not fit, even with less prose."""
        columns = zip(self.headers, *self.rows, strict=True)
        *widths, last = (max(cell.cell_len for cell in column) + gap for column in columns)
        spare = width - sum(widths) - (last - gap)
        least = LEAST_OF_PROSE if self.prose else last - gap
        return [*widths, last - gap + min(spare, 0)] if spare >= 0 or last - gap + spare >= least else None

    def _below(self) -> Table:
        """What stands below the names."""
        texts = (text - 1 for text in self.texts)
        headers = [header.plain for header in self.headers[1:]]
        return Table(headers, (row[1:] for row in self.rows), texts=texts, prose=self.prose)

    def _figures(self) -> Table:
        """The same without the prose, which then has lines of its own."""
        texts = (text - 1 for text in self.texts)
        headers = [header.plain for header in self.headers[1:-1]]
        return Table(headers, (row[1:-1] for row in self.rows), texts=texts)

    def _each_below_its_name(self, below: Table, widths: Sequence[int], gap: int, width: int) -> Iterator[Text]:
        yield _whole(self.headers[0])
        yield _whole(Text(INDENT) + below._row(below.headers, widths, gap))
        yield _whole(Text(self.rule * (len(INDENT) + sum(widths))))
        for (name, *_, last), cells in zip(self.rows, below.rows, strict=True):
            yield _whole(name)
            alone = wrapped(last, width) if len(cells) < len(self.headers) - 1 and last else []
            yield from (_whole(Text(INDENT) + line) for line in (*below._wrapped(cells, widths, gap), *alone))

    def _listed(self, width: int) -> Iterator[Text]:
        longest = max(row[0].cell_len for row in (self.headers, *self.rows))
        yield from (_whole(self.headers[0]), _whole(Text(self.rule * min(width, longest))))
        for name, *cells in self.rows:
            yield _whole(name)
            figures = (
                f"{header} {cell}".strip() for header, cell in zip(self.headers[1:], cells, strict=True) if cell
            )
            pieces = wrapped(Text(", ".join(figures)), width - len(INDENT))
            yield from (_whole(Text(INDENT) + piece) for piece in pieces)

    def _wrapped(self, row: Sequence[Text], widths: Sequence[int], gap: int) -> Iterator[Text]:
        """A row; of several lines if its last cell is prose."""
        *cells, last = row
        pieces = [piece for line in last.split("\n") for piece in wrapped(line, widths[-1])] if self.prose else [last]
        for number, piece in enumerate(pieces):
            yield self._row([*([Text()] * len(cells) if number else cells), piece], widths, gap)

    def _row(self, cells: Sequence[Text], widths: Sequence[int], gap: int) -> Text:
        line = Text()
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            is_last = column == len(widths) - 1
            own = width - (0 if is_last else gap)
            line += _padded(cell, own) if column in self.texts else Text(" " * (own - cell.cell_len)) + cell
            line.append("" if is_last else " " * gap)
        line.rstrip()
        return _whole(line)


class Either:
    """A table, or another form of it where that one would not fit."""

    def __init__(self, wide: Table, narrow: RenderableType) -> None:
        self.wide, self.narrow = wide, narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.wide if self.wide.fits(options.max_width) else self.narrow


def as_text(view: RenderableType, width: int = WIDTH) -> str:
    """The view without colours, as a pipe shows it."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=None,  # whatever the environment forces
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )
    with console.capture() as shown:
        console.print(view)
    return shown.get().rstrip("\n")


def wrapped(line: Text, width: int) -> list[Text]:
    """Its pieces, broken at blanks only; a word that is longer than the width is a piece of its own.

    A figure stays with its unit.
    """
    text = _OF_A_FIGURE.sub("\N{NO-BREAK SPACE}", line.plain)
    pieces = textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]
    return [_whole(Text(piece.replace("\N{NO-BREAK SPACE}", " "), line.style)) for piece in pieces]


def _lines(text: Cell, encoding: str) -> list[Text]:
    """Of what may be several."""
    return list(_encoded(text, encoding).split("\n", allow_blank=True)) or [Text()]


def _encoded(cell: Cell, encoding: str) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell
    return Text("\n".join(encodable(printable(line), encoding) for line in text.plain.split("\n")), text.style)


def _padded(text: Text, width: int) -> Text:
    return text + Text(" " * (width - text.cell_len))


def _whole(line: Text) -> Text:
    """A line that nobody breaks or cuts."""
    return Text(line.plain, line.style, spans=line.spans, no_wrap=True, overflow="ignore")
