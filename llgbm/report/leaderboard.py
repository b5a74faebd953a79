"""The leaderboard: entries of a file as the tables of a page, and a study's results as entries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Integer, Number, Text, read_as
from llgbm.errors import InputError
from llgbm.files import read_json, read_text, write_json, write_text
from llgbm.report.table import words

BEGIN, END = "<!-- leaderboard: written by scripts/write_leaderboard.py -->", "<!-- /leaderboard -->"
BENCHMARKS = {
    "micro": "MicroZoo",
    "few": "MicroZoo-Few, unseen combinations by the number of seen tasks",
    "few_words": "words on SmolLM2, unseen combinations by the number of seen tasks (72: mean of three runs)",
    "words": "MicroZoo-Words, mean over folds",
    "wild": "MicroZoo-Wild, by the share of pairs held out",
}
"""Benchmark -> the title of its table, in the page's order; a study has its benchmark's name."""
ENTRY_OF_METHOD = "generated"
"""The method of a study that is the entry itself; the others are controls and enter by their own names."""


@dataclass(frozen=True, config=RECORD)
class Figure:
    """Exact match in percent, with an interval where there is one."""

    mean: Number = Field(ge=0, le=100)
    low: Number | None = None
    high: Number | None = None

    def shown(self) -> str:
        return f"{self.mean:.1f}" if self.low is None or self.high is None else f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True, config=RECORD)
class Entry:
    """One line of one table."""

    benchmark: Text
    entry: Text
    """What was entered: a generator or a control, with its text encoder."""
    seeds: Integer
    """Runs, draws or folds the figures are means of; 1 without any training."""
    figures: dict[str, Figure]
    """Column -> figure."""
    cost: Text
    """Parameters, and time on what machine."""
    command: Text
    """What makes the figures anew."""


def read_entries(path: str | Path) -> list[Entry]:
    """The entries of a leaderboard file. InputError when it holds something else, or an entry for no benchmark."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds no list of entries; see docs/benchmark.md")
    entries = [read_as(Entry, row, f"{path}, entry {k + 1}") for k, row in enumerate(rows)]
    for k, entry in enumerate(entries):
        if entry.benchmark not in BENCHMARKS:
            known = ", ".join(BENCHMARKS)
            raise InputError(f"{path}, entry {k + 1}: benchmark {entry.benchmark!r} is unknown; choose from {known}")
    return entries


def entries_of_study(result: Mapping[str, Any], name: str, cost: str, command: str) -> list[dict[str, Any]]:
    """A study's means as rows for the file: its generated adapters under a name, its other methods under their own.

    Raises:
        InputError: The study is not a benchmark's.
    """
    study = result["study"]
    if study["name"] not in BENCHMARKS:
        raise InputError(f"study {study['name']} is no benchmark; choose one of {', '.join(BENCHMARKS)}")
    rows = [row for row in result["rows"] if not study["together"] or row["variant"].startswith("mean of")]
    if not rows:
        raise InputError(f"study {study['name']}: its folds have no mean yet; finish at least two of them")
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = row["method"] == ENTRY_OF_METHOD
        start = {"benchmark": study["name"], "seeds": row["n_seeds"], "figures": {}, "command": command, "cost": cost if own else "-"}
        entry = found.setdefault(row["method"], {**start, "entry": name if own else row["method"]})
        column = _column(study, row)
        if column is not None:
            figures = {part: row[source] for part, source in (("mean", "score"), ("low", "low"), ("high", "high"))}
            entry["figures"][column] = {k: None if v is None else round(100 * min(max(v, 0), 1), 1) for k, v in figures.items()}
    return list(found.values())


def add_entries(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put rows into the file; one of the same benchmark and name is replaced."""
    kept = read_json(path)
    new = {(row["benchmark"], row["entry"]) for row in rows}
    write_json(path, [*(row for row in kept if (row["benchmark"], row["entry"]) not in new), *rows])


def tables(entries: Sequence[Entry]) -> str:
    """The page's part: a table for each benchmark that has entries."""
    parts = []
    for benchmark, title in BENCHMARKS.items():
        own = [entry for entry in entries if entry.benchmark == benchmark]
        if not own:
            parts.append(f"**{title}.** No entries yet.")
            continue
        columns = list(dict.fromkeys(column for entry in own for column in entry.figures))
        lines = [f"| entry | {' | '.join(columns)} | runs | cost | made by |", "|---" * (len(columns) + 4) + "|"]
        for entry in own:
            cells = [entry.figures[c].shown() if c in entry.figures else "-" for c in columns]
            lines.append(f"| {entry.entry} | {' | '.join(cells)} | {entry.seeds} | {entry.cost} | `{entry.command}` |")
        parts.append("\n".join([f"**{title}**", "", *lines]))
    return "\n\n".join(parts)


def write_page(page: str | Path, file: str | Path) -> None:
    """Put the file's tables between the page's marks. InputError when the page has none."""
    text = read_text(Path(page))
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{page}: has no place for the leaderboard; write {BEGIN} and {END} on lines of their own")
    before, rest = text.split(BEGIN)
    write_text(page, f"{before}{BEGIN}\n{tables(read_entries(file))}\n{END}{rest.split(END)[1]}")


def _column(study: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    """Where a row of a study stands in its table; None where it does not."""
    if study["together"]:
        return words(row["split"])
    if row["split"] != "unseen_combination":
        return None
    return row["variant"].rpartition(", ")[2] if study["axis"] else row["variant"]
