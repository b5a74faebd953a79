"""Results on standard output: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from llgbm.config import ExperimentConfig

PIPE_WIDTH = 160
"""Columns of a table that no terminal shows: wide enough that nothing is cut."""


class _Console(Console):
    """Rich's console; a closed pipe is the caller's to answer, as with `print`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(
    rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None, title: str | None = None, in_parts: bool = False
) -> None:
    """Print rows as a table; numbers are right-aligned, None is a dash. Titles are printed as they are, never broken.

    Where the table is too wide, its cells are folded; `in_parts` sets the columns that do not fit below, beside the first one again.
    """
    console = _console()
    for line in title.split("\n") if title else ():
        console.print(_plain(line), soft_wrap=True)
    columns = list(columns or (rows[0] if rows else ()))
    for part in _fitting(console, rows, columns) if in_parts else [columns]:
        console.print(_table(rows, part))


@contextmanager
def live_table(rows: Sequence[dict[str, Any]], title: str) -> Iterator[Callable[[], None]]:
    """Show rows as a table that follows them: the callable given draws what they hold by now."""
    console = _console()
    console.print(_plain(title), soft_wrap=True)
    with Live(_table(rows), console=console, refresh_per_second=12) as live:
        yield lambda: live.update(_table(rows))


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_config(config: "ExperimentConfig") -> int:
    """Print a whole config as YAML, which `--config FILE` takes; the exit status."""
    print(config.dump(), end="")
    return 0


def _console() -> Console:
    console = _Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _fitting(console: Console, rows: Sequence[dict[str, Any]], columns: list[str]) -> Iterator[list[str]]:
    """Columns in parts that fit the console side by side, each with the first column; one alone may be folded."""
    part, unbounded = columns[:1], console.options.update(max_width=10_000)
    for column in columns[1:]:
        if len(part) > 1 and Measurement.get(console, unbounded, _table(rows, [*part, column])).maximum > console.width:
            yield part
            part = columns[:1]
        part = [*part, column]
    yield part


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> Table:
    """The one place where data becomes cells: as plain text, since brackets in it are data, not markup."""
    columns = list(columns or (rows[0] if rows else ()))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(_plain(column.replace("_", " ")), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(_cell(row.get(column))) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(text: str) -> Text:
    """Text as it is, on one line: control characters, which could drive a terminal, are escaped."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
