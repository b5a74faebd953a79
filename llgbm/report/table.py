"""Tables as data for a page, and any JSON document as a few of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llgbm.dotted import flatten
from llgbm.percent import percent
from llgbm.report.charts import number

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MOST_ROWS = 60
"""Rows of a JSON list that are shown."""
LONGEST_TEXT = 160
"""Characters of a JSON value that are shown."""


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    note: str = ""
    """Smaller, below the text."""
    share: float | None = None
    """From 0 to 1: tints the cell."""
    sort: float | str | None = None
    """What a sorting reader compares; None: the text."""
    kind: str = ""
    """`number`, `code` for hashes and paths, `key` at the head of the row to look at, empty for text."""


@dataclass(frozen=True)
class Table:
    """Rows under column heads; the first cell of a row is its head."""

    caption: str
    columns: list[Cell]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""
    """What is left out, below the table."""


def percent_cell(value: float | None, low: float | None = None, high: float | None = None, note: str = "", short: bool = False) -> Cell:
    """A share with its interval, tinted by its size; `short` leaves out a decimal that is zero."""
    if value is None:
        return Cell(DASH, kind="number", sort=-1)
    interval = "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"
    text = percent(value, 1).replace(".0%", "%") if short else percent(value, 1)
    return Cell(text, ", ".join(filter(None, (interval, note))), min(max(value, 0.0), 1.0), value, "number")


def points(value: float) -> str:
    """A difference of two shares, signed, in percentage points."""
    return percent(value, 1, sign=True).removesuffix("%").replace("-", MINUS)


def number_cell(value: float | None) -> Cell:
    """A figure, right-aligned."""
    return Cell(DASH, kind="number") if value is None else Cell(number(value).replace("-", MINUS), sort=float(value), kind="number")


def size(size_bytes: int) -> str:
    """Bytes, in the largest decimal unit that leaves at least 1."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes} bytes"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes) + [f"{whole % 60} s"] * (not hours)
    return " ".join(parts)


def words(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def moment(text: str) -> str:
    """An ISO time to the minute, in words' order; any other text as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return text


def json_tables(document: Any, caption: str) -> list[Table]:
    """Tables of a document whose layout is not known: one per list of objects and per object of like objects or plain values."""
    if isinstance(document, Mapping) and document and all(isinstance(value, Mapping) for value in document.values()):
        rows = [{"name": name, **flatten(value)} for name, value in document.items()]
        if all(_is_plain(value) for row in rows for value in row.values()):
            return [_records(rows, caption)]
    if isinstance(document, Mapping):
        plain = {name: value for name, value in document.items() if _is_plain(value)}
        tables = [_pairs(plain, caption)] if plain else []
        rest = ((name, value) for name, value in document.items() if name not in plain)
        return tables + [table for name, value in rest for table in json_tables(value, f"{caption}: {words(str(name))}")]
    if isinstance(document, list) and document and all(isinstance(value, Mapping) for value in document):
        return [_records([flatten(row) for row in document], caption)]
    return []


def _is_plain(value: Any) -> bool:
    return not isinstance(value, Mapping) and (not isinstance(value, list) or all(isinstance(v, str | int | float | None) for v in value))


def _pairs(values: Mapping, caption: str) -> Table:
    return Table(caption, [Cell("field"), Cell("value")], [[Cell(words(str(name))), _json_cell(value)] for name, value in values.items()])


def _records(rows: Sequence[Mapping], caption: str) -> Table:
    names = list(dict.fromkeys(str(name) for row in rows for name, value in row.items() if _is_plain(value)))
    shown = rows[:MOST_ROWS]
    note = "" if len(rows) == len(shown) else f"The first {len(shown)} of {len(rows)} rows."
    return Table(caption, [Cell(words(name)) for name in names], [[_json_cell(row.get(name)) for name in names] for row in shown], note)


def _json_cell(value: Any) -> Cell:
    if isinstance(value, bool) or value is None:
        return Cell({True: "yes", False: "no", None: DASH}[value])
    if isinstance(value, int | float):
        return number_cell(value)
    text = ", ".join(number(v) if isinstance(v, float) else str(v) for v in value) if isinstance(value, list) else str(value)
    return Cell(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}\N{HORIZONTAL ELLIPSIS}", sort=text)
