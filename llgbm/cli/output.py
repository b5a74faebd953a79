"""Results on standard output: tables for people, JSON for programs."""

import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


class _Console(Console):
    """Rich's console; a closed pipe is the caller's to answer, as with `print`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None, title: str | None = None) -> None:
    """Print rows as a table; numbers are right-aligned, None is a dash."""
    columns = list(columns or (rows[0] if rows else ()))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console = _Console()
    if not console.is_terminal:  # a pipe or file: never cut
        console.width = 160
    console.print(table)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
