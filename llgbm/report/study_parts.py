"""What a study's report is made of, whatever it is written as: sections of paragraphs, tables, pictures, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llgbm.report.table import DASH, Cell, Table


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Card:
    """A result at a glance."""

    heading: str
    figure: str
    text: str
    note: str


@dataclass(frozen=True)
class Picture:
    """A figure of the study's folder."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Missing:
    """What is not there yet, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Folded:
    """A long table, which a page shows when it is asked for."""

    table: Table


Part = Text | Card | Table | Folded | Picture | Missing


@dataclass(frozen=True)
class Section:
    """Parts under a heading."""

    id: str
    heading: str
    parts: list[Part] = field(default_factory=list)


def rows_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str | Cell]], note: str = "") -> Table:
    """A table of texts; the first column heads the rows, empty texts are dashes."""
    cells = [[one if isinstance(one, Cell) else Cell(one or DASH) for one in row] for row in rows]
    return Table(caption, [Cell(head) for head in heads], cells, note)


def as_markdown(title: str, sections: Sequence[Section], folder: Path) -> str:
    """The report as Markdown that pandoc turns into a PDF: pictures by relative path, tables with pipes.

    Args:
        title: Of the document.
        sections: Its parts.
        folder: Where the file lies; pictures lie below it.
    """
    lines = ["---", f"title: {_quoted(title)}", "---", ""]
    for section in sections:
        lines += [f"# {_escaped(section.heading)}", ""]
        for part in section.parts:
            lines += [*_markdown(part, folder), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(part: Part, folder: Path) -> list[str]:
    if isinstance(part, Text):
        return [_escaped(part.text)]
    if isinstance(part, Card):
        return [f"**{_escaped(part.heading)}: {_escaped(part.figure)}** {_escaped(part.text)} *{_escaped(part.note)}*"]
    if isinstance(part, Picture):
        return [f"![{_escaped(part.caption)}]({part.path.relative_to(folder).as_posix()})"]
    if isinstance(part, Missing):
        return [f"*{_escaped(part.what)} not there; run* `{part.command}`"]
    if isinstance(part, Folded):
        return _markdown(part.table, folder)
    rows = ["| " + " | ".join(_cell(one) for one in row) + " |" for row in (part.columns, *part.rows)]
    rows.insert(1, "|" + "|".join("---" for _ in part.columns) + "|")
    return [f"Table: {_escaped(part.caption)}", "", *rows, *(["", _escaped(part.note)] if part.note else [])]


def _cell(one: Cell) -> str:
    return _escaped(f"{one.text} ({one.note})" if one.note else one.text)


def _escaped(text: str) -> str:
    """Text without what Markdown or HTML would take as its own."""
    for sign in "\\`*_|<>[]#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return "'" + " ".join(text.split()).replace("'", "''") + "'"
