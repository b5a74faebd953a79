"""Results on standard output: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160
"""Columns of a table that no terminal shows: wide enough that nothing is cut."""


class _Console(Console):
    """Rich's console; a closed pipe is the caller's to answer, as with `print`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None, title: str | None = None) -> None:
    """Print rows as a table; numbers are right-aligned, None is a dash. Titles are printed as they are, never broken."""
    console = _console()
    if title:
        console.print(_plain(title), soft_wrap=True)
    console.print(_table(rows, columns))


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


def _console() -> Console:
    console = _Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


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
