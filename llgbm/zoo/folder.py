"""A zoo: the folder of trained teachers with its manifest."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Integer, Number, read_as
from llgbm.config import ZooConfig
from llgbm.errors import InputError
from llgbm.files import hash_json, read_json
from llgbm.framing import Framing
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapters
from llgbm.names import relative_path
from llgbm.zoo.base import Base
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite


@dataclass(frozen=True, config=RECORD)
class Teacher:
    """One teacher of a zoo, as its manifest records it."""

    path: Annotated[str, AfterValidator(relative_path)]
    """Folder of the PEFT adapter, relative to the zoo."""
    task: str
    domain: str
    split: str
    seed: Integer
    steps: Integer
    exact_match: Number
    """On the task's test examples, greedy decoding."""
    hash: str


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
class Manifest:
    """What `manifest.json` holds at least."""

    base: BaseEntry
    suite: SuiteEntry
    teachers: tuple[Teacher, ...]
    batches: tuple[tuple[Annotated[str, AfterValidator(relative_path)], ...], ...] = ()
    """Paths of teachers that train together."""


class TeacherZoo:
    """A folder of teachers with its manifest."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest = folder, manifest
        self.teachers = list(read_as(Manifest, manifest, str(folder)).teachers)

    @classmethod
    def load(cls, folder: str | Path) -> "TeacherZoo":
        """Open a zoo. InputError when the folder has no readable manifest."""
        manifest_path = Path(folder) / "manifest.json"
        if not manifest_path.is_file():
            raise InputError(f"{folder}: not a zoo (no manifest.json); build one with 'llgbm zoo build --checkpoint_folder {folder}'")
        manifest = read_json(manifest_path)
        read_as(Manifest, manifest, f"{manifest_path}, which 'llgbm zoo build' writes anew")
        return cls(Path(folder), manifest)

    @cached_property
    def suite(self) -> TaskSuite:
        """The suite the teachers were trained on. InputError when it has changed since."""
        suite = load_suite(self.manifest["suite"]["source"])
        if suite.content_hash != self.manifest["suite"]["hash"]:
            raise InputError(f"{self.folder}: built on another version of suite {suite.name}; build the zoo again")
        return suite

    def framing(self, base: Base) -> Framing:
        """How the base reads the suite's examples: as it did when the teachers were trained."""
        return Framing.of(base, self.suite, ZooConfig(**self.manifest.get("zoo", {})))

    @property
    def content_hash(self) -> str:
        """SHA-256 over base, suite and the teachers' weights."""
        return hash_json([self.manifest["base"]["hash"], self.manifest["suite"]["hash"], sorted((t.path, t.hash) for t in self.teachers)])

    def select(self, split: str | None = None, seed: int | None = None) -> list[Teacher]:
        """Teachers of one split and one seed, in manifest order."""
        return [t for t in self.teachers if split in (None, t.split) and seed in (None, t.seed)]

    def factors(self, teachers: Sequence[Teacher]) -> LoRAFactors:
        """The teachers' factors, stacked in the given order."""
        return read_adapters([self.folder / teacher.path for teacher in teachers])
