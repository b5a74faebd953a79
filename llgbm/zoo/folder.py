"""A zoo: the folder of trained teachers with its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from llgbm.config import ZooConfig
from llgbm.errors import InputError
from llgbm.files import hash_json, read_json
from llgbm.framing import Framing
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapters
from llgbm.zoo.base import Base
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite


@dataclass(frozen=True)
class Teacher:
    """One teacher of a zoo, as its manifest records it."""

    path: str
    """Folder of the PEFT adapter, relative to the zoo."""
    task: str
    domain: str
    split: str
    seed: int
    steps: int
    exact_match: float
    """On the task's test examples, greedy decoding."""
    hash: str


class TeacherZoo:
    """A folder of teachers with its manifest."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest = folder, manifest
        self.teachers = [Teacher(**row) for row in manifest["teachers"]]

    @classmethod
    def load(cls, folder: str | Path) -> "TeacherZoo":
        """Open a zoo. InputError when the folder has no readable manifest."""
        manifest_path = Path(folder) / "manifest.json"
        if not manifest_path.is_file():
            raise InputError(f"{folder}: not a zoo (no manifest.json); build one with 'llgbm zoo build --checkpoint_folder {folder}'")
        manifest = read_json(manifest_path)
        if not isinstance(manifest, dict) or "teachers" not in manifest:
            raise InputError(f"{manifest_path}: not a zoo manifest (no list of teachers)")
        _check(manifest, manifest_path)
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


MANIFEST: dict[str, dict[str, type]] = {"base": {"name": str, "hash": str}, "suite": {"source": str, "hash": str}}
"""What a manifest says beside its teachers."""
TEACHER: dict[str, Any] = {"seed": int, "steps": int, "exact_match": int | float}
"""Fields of a teacher that are not text."""


def _check(manifest: dict[str, Any], path: Path) -> None:
    """InputError that names the first key of a manifest that is missing or of another type."""
    again = "; 'llgbm zoo build' writes it anew"
    for section, keys in MANIFEST.items():
        for key, kind in keys.items():
            if not isinstance(manifest.get(section), dict) or not isinstance(manifest[section].get(key), kind):
                raise InputError(f"{path}: {section}.{key} is missing or no text, so this is no zoo manifest{again}")
    teachers = manifest["teachers"]
    if not isinstance(teachers, list) or not teachers:
        raise InputError(f"{path}: expected a list of teachers, found {'none' if teachers == [] else type(teachers).__name__}{again}")
    names = [entry.name for entry in fields(Teacher)]
    for number, row in enumerate(teachers):
        fault = next((name for name in names if not isinstance(row, dict) or not isinstance(row.get(name), TEACHER.get(name, str))), None)
        if fault or row.keys() - set(names):
            wrong = f"{fault} missing or of the wrong type" if fault else f"{min(row.keys() - set(names))} unknown"
            raise InputError(f"{path}: teacher {number} has {wrong}{again}")
