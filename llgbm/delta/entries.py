"""The records of a cache's deltas: a file that only grows, one line for each delta; where two lines are of one folder the later one counts.

So storing a chunk costs what the chunk is, not what the cache is. A line that a killed process left unfinished is not read, and cut off
by the next one that writes.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Integer, Text, read_as
from llgbm.errors import InputError
from llgbm.files import absolute, names_its_faults, sync
from llgbm.names import path_part

ENTRIES_FILE = "adapters.jsonl"


@dataclass(frozen=True, config=RECORD)
class DeltaRecord:
    """One delta of a cache, as its manifest records it."""

    key: str
    file: Annotated[str, AfterValidator(path_part)]
    sha256: str
    shape: tuple[Integer, ...]
    place: str | None = None
    """The adapter's folder in one spelling."""


@dataclass(frozen=True, config=RECORD)
class _Line(DeltaRecord):
    """A line of the file."""

    path: Text = ""


@dataclass(frozen=True, config=RECORD)
class _Lines:
    lines: list[_Line]


class Entries:
    """What a cache holds, by adapter path; of several spellings of one folder the last stays, so that no adapter counts twice.

    Args:
        file: Where the lines are; made on the first one.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.records: dict[str, dict[str, Any]] = {}
        self._places: dict[str, str] = {}
        self._paths: defaultdict[str, set[str]] = defaultdict(set)
        self._end = 0
        """Bytes that were read: whole lines."""
        self._number = 0
        """How many lines these are."""

    def find(self, path: str) -> dict[str, Any] | None:
        """The record of an adapter's folder, however its path was spelled when it was stored."""
        return self.records.get(path) or self.records.get(self._places.get(absolute(path), ""))

    def of_key(self, key: str) -> dict[str, dict[str, Any]]:
        """Path -> record of every adapter with this content."""
        return {path: self.records[path] for path in self._paths.get(key, ())}

    def enter(self, path: str, record: Mapping[str, Any]) -> None:
        """Know one more, in memory alone."""
        place = record.get("place") or absolute(path)
        for former in {self._places.get(place), path}:
            if former in self.records:
                self._paths[self.records.pop(former)["key"]].discard(former)
        self.records[path] = {**record, "place": place}
        self._places[place] = path
        self._paths[record["key"]].add(path)

    def is_of(self, file: Path) -> bool:
        """Whether a file still begins with what was read."""
        return (file.stat().st_size if file.exists() else 0) >= self._end

    def read(self) -> None:
        """Read the lines that came since the last time. InputError when one is none."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self._end)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        for line in self._parsed(content):
            self.enter(line["path"], {key: value for key, value in line.items() if key != "path"})
        self._end += len(content)

    def append(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Write records, path -> record, and know them. Only one process at a time may, and after `read`."""
        lines = [json.dumps({"path": path, **record, "place": absolute(path)}) for path, record in records.items()]
        with names_its_faults(self.file), self.file.open("ab") as file:
            file.truncate(self._end)  # what a process was writing when it was killed
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        sync(self.file.parent)
        self.read()

    def _parsed(self, content: bytes) -> list[dict[str, Any]]:
        source = f"{self.file}: not the entries of a delta cache, remove it or choose another folder"
        lines = []
        for text in content.splitlines():
            self._number += 1
            try:
                lines.append(json.loads(text))
            except ValueError as error:
                raise InputError(f"{source}; line {self._number} is no JSON ({error})") from error
        read_as(_Lines, {"lines": lines}, source)
        nameless = next((line for line in lines if not line.get("path")), None)
        if nameless is not None:
            raise InputError(f"{source}; the delta {nameless['key'][:12]} is of no path")
        return lines
