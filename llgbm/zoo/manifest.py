"""What a zoo's manifest says: its teachers, their base and suite. Reading it needs neither weights nor torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Integer, Number, read_as
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.names import relative_path

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, config=RECORD)
class Teacher:
    """One teacher of a zoo, as its manifest records it."""

    path: Annotated[str, AfterValidator(relative_path)]
    """Folder of the PEFT adapter, relative to the zoo."""
    task: str
    domain: str
    split: str
    seed: Integer
    steps: Integer | None
    """None where it was trained elsewhere."""
    exact_match: Number | None
    """On the task's test examples, greedy decoding; None where it has none."""
    hash: str
    score: Number | None = None
    """By its task's metric, where that is not exact match."""

    @property
    def value(self) -> float | None:
        """By its task's metric where that was recorded, else exact match; None where nothing says."""
        return self.exact_match if self.score is None else self.score

    def row(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {key: value for key, value in asdict(self).items() if key != "score" or value is not None}


@dataclass(frozen=True, config=RECORD)
class BaseEntry:
    """The base of a zoo, as its manifest records it."""

    name: str
    hash: str


@dataclass(frozen=True, config=RECORD)
class SuiteEntry:
    """The suite of a zoo, as its manifest records it."""

    source: str
    hash: str


@dataclass(frozen=True, config=RECORD)
class Origin:
    """Where an imported adapter came from."""

    path: Annotated[str, AfterValidator(relative_path)]
    """Its folder in the zoo."""
    commit: str | None = None
    """Of the hub; None where it came from a folder."""


@dataclass(frozen=True, config=RECORD)
class Manifest:
    """What `manifest.json` holds at least."""

    base: BaseEntry
    suite: SuiteEntry | None
    """None where adapters were imported, so that nothing says what they were taught."""
    teachers: tuple[Teacher, ...]
    imported: dict[str, Origin] | None = None
    """Folder or `hf://ORG/NAME[@REVISION]`, as it was asked for -> what came of it; None where teachers were trained."""
    batches: tuple[tuple[Annotated[str, AfterValidator(relative_path)], ...], ...] = ()
    """Paths of teachers that train together."""


def is_zoo(folder: str | Path) -> bool:
    """Whether the folder has a zoo's manifest; one that is no zoo's is for `read_manifest` to refuse."""
    return (Path(folder) / MANIFEST_FILE).is_file()


def load_manifest(folder: str | Path) -> dict[str, Any]:
    """The whole manifest of a zoo. InputError when the folder has none, or none that can be read."""
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{folder}: not a zoo (no {MANIFEST_FILE}); build one with 'llgbm zoo build --zoo {folder}'")
    manifest = read_json(path)
    read_as(Manifest, manifest, f"{path}, which 'llgbm zoo build' writes anew")
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """What a zoo's manifest holds at least, checked; InputError as `load_manifest`."""
    return read_as(Manifest, load_manifest(folder), str(folder))
