"""Rows of a task's files, each with where it stands: GLUE's TSV and JSON lines line by line, other formats by `datasets`; or the hub's.

What is broken is named and left out, as long as something is left.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llgbm.errors import InputError, first_line
from llgbm.files import parse_json, read_text

T = TypeVar("T")
Row = dict[str, Any]
SUFFIXES = (".tsv", ".jsonl", ".json", ".csv", ".parquet")
MOST_NAMED = 3
"""Broken rows that a message names; the others are counted."""
logger = logging.getLogger(__name__)


@dataclass
class Table:
    """The rows of one split."""

    source: str
    rows: list[tuple[str, Row]]
    """Where each stands, a line or row of the source, and its columns."""
    faults: list[str] = field(default_factory=list)
    """One sentence for every row left out."""

    def column(self, *names: str) -> str:
        """Which of some names for a column the table has. InputError when it has none."""
        known = dict.fromkeys(key for _, row in self.rows for key in row)
        found = next((name for name in names if name in known), None)
        if found is None:
            has = ", ".join(known) or "none, as it has no row"
            raise InputError(f"{self.source}: no column {' or '.join(names)}; its columns are {has}")
        return found

    def read(self, make: Callable[[str, Row], T]) -> list[T]:
        """What `make` makes of each row; rows of which it raises ValueError are named, in the log, and left out.

        Raises:
            InputError: No row is left.
        """
        made = []
        for where, row in self.rows:
            try:
                made.append(make(where, row))
            except ValueError as error:
                self.faults.append(f"{where}: {error}")
        warn_of_faults(self.source, self.faults, len(made))
        return made


def warn_of_faults(source: str, faults: Sequence[str], good: int) -> None:
    """Say which rows were left out. InputError when no other is left."""
    if not faults and good:
        return
    named = "; ".join(faults[:MOST_NAMED]) + (f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else "")
    if not good:
        raise InputError(f"{source}: no row can be used; {named or 'it has none'}")
    logger.warning("%s: %d of %d rows are left out: %s", source, len(faults), len(faults) + good, named)


def find_split(folder: Path, *names: str) -> Path:
    """The file of a split, under one of its names. InputError when there is none."""
    found = next((path for name in names for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)
    if found is None:
        wanted = " or ".join(f"{name}{suffix}" for name in names for suffix in SUFFIXES[:1])
        raise InputError(f"{folder}: no {wanted} (or {', '.join(SUFFIXES[1:])}); put the task's files there, or set data to another folder")
    return found


def read_table(path: Path) -> Table:
    """The rows of a file. InputError when it cannot be read, or has no row that can."""
    if path.suffix == ".tsv":
        return _read_tsv(path)
    return _read_jsonl(path) if path.suffix == ".jsonl" else _read_by_datasets(path)


def read_hub(name: str, subset: str | None, split: str) -> Table:
    """A split of a data set on the hub. InputError when `datasets` is not installed or does not get it."""
    datasets = _datasets()
    source = f"{name}{'' if subset is None else f', {subset}'}, {split}"
    try:
        loaded: Any = datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the hub's client raises its own, the builders theirs
        raise InputError(
            f"{source}: cannot be loaded from the hub ({first_line(error)}); check the network, or set data to a folder"
        ) from error
    return _numbered(source, loaded)


def _read_tsv(path: Path) -> Table:
    """Tab-separated, with a header, and no quoting: quotes are text."""
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    header, rows, faults = lines[0].split("\t"), [], []
    for number, line in enumerate(lines[1:], 2):
        values = line.split("\t")
        if len(values) == len(header):
            rows.append((f"line {number}", dict(zip(header, values, strict=True))))
        elif line.strip():
            faults.append(f"line {number}: has {len(values)} columns, the header {len(header)}")
    return _some(Table(str(path), rows, faults))


def _read_jsonl(path: Path) -> Table:
    rows, faults = [], []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            value = parse_json(line, f"line {number}") if line.strip() else None
        except InputError as error:
            faults.append(str(error))
            continue
        if isinstance(value, dict):
            rows.append((f"line {number}", value))
        elif value is not None:
            faults.append(f"line {number}: is no object")
    return _some(Table(str(path), rows, faults))


def _read_by_datasets(path: Path) -> Table:
    kind = {".csv": "from_csv", ".json": "from_json", ".parquet": "from_parquet"}[path.suffix]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            loaded = getattr(_datasets().Dataset, kind)(str(path), cache_dir=scratch, keep_in_memory=True)
        except InputError:
            raise
        except Exception as error:  # pandas, pyarrow and the builders each raise their own
            raise InputError(f"{path}: cannot be read as {path.suffix[1:]} ({first_line(error)}); mend the file") from error
        return _some(_numbered(str(path), loaded))


def _numbered(source: str, rows: Iterable[Row]) -> Table:
    return Table(source, [(f"row {number}", row) for number, row in enumerate(rows, 1)])


def _some(table: Table) -> Table:
    if not table.rows:
        warn_of_faults(table.source, table.faults, 0)
    return table


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError("files other than TSV and JSON lines, and the hub, need datasets; pip install 'llgbm[study]'") from error
    datasets.disable_progress_bars()
    return datasets
