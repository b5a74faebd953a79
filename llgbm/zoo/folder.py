"""A zoo: the folder of trained teachers with its manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from llgbm.checking import read_as
from llgbm.config import ZooConfig
from llgbm.errors import InputError
from llgbm.files import hash_json
from llgbm.framing import Framing
from llgbm.lora.bulk import read_readable
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.stored import StoredFactors, stored_bytes
from llgbm.zoo.base import Base, BaseIdentity, content_of
from llgbm.zoo.manifest import MANIFEST_FILE, Manifest, SuiteEntry, Teacher, load_manifest
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite

READ_AT_ONCE = 64
"""Teachers whose files are checked together."""
MOST_NAMED = 5
"""Further teachers that one sentence names."""


class TeacherZoo:
    """A folder of teachers with its manifest."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest = folder, manifest
        known = read_as(Manifest, manifest, str(folder))
        self.teachers, self._suite, self.imported = list(known.teachers), known.suite, known.imported
        self._sound: set[str] = set()

    @classmethod
    def load(cls, folder: str | Path) -> "TeacherZoo":
        """Open a zoo. InputError when the folder has no readable manifest."""
        return cls(Path(folder), load_manifest(folder))

    @cached_property
    def base(self) -> BaseIdentity:
        """The base the teachers were trained on. InputError when the manifest does not say all of it."""
        return BaseIdentity.read(self.manifest.get("base"), self.folder / MANIFEST_FILE)

    @cached_property
    def suite(self) -> TaskSuite:
        """The suite the teachers were trained on. InputError when there is none, or it has changed since."""
        suite = load_suite(self.suite_entry.source)
        if suite.content_hash != self.suite_entry.hash:
            raise InputError(f"{self.folder}: built on another version of suite {suite.name}; build the zoo again")
        return suite

    @property
    def suite_entry(self) -> SuiteEntry:
        """Where the suite is, and its hash. InputError when there is none."""
        if self._suite is None:
            raise InputError(
                f"{self.folder}: its adapters were imported, and nothing says which tasks they are for; deltas, search and merging "
                "need no tasks, for all else build a zoo with 'llgbm zoo build'"
            )
        return self._suite

    def framing(self, base: Base, whole_context: bool = False, remember: bool = True) -> Framing:
        """How the base reads the suite's examples: as it did when the teachers were trained, or as long as it can read at all.

        `remember` as in `Framing`.
        """
        zoo = ZooConfig(**self.manifest.get("zoo", {}))
        return Framing.of(base, self.suite, replace(zoo, max_length=None) if whole_context else zoo, remember)

    @property
    def content_hash(self) -> str:
        """SHA-256 over base, suite and the teachers' weights."""
        suite_hash = self._suite and self._suite.hash
        return hash_json([content_of(self.base), suite_hash, sorted((t.path, t.hash) for t in self.teachers)])

    def select(self, split: str | None = None, seed: int | None = None) -> list[Teacher]:
        """Teachers of one split and one seed, in manifest order."""
        return [t for t in self.teachers if split in (None, t.split) and seed in (None, t.seed)]

    def factors(self, teachers: Sequence[Teacher]) -> LoRAFactors:
        """The teachers' factors, stacked in the given order. InputError names one whose files are not what the manifest says."""
        factors, faults = self._read(teachers)
        self._refuse(faults, len(teachers))
        if factors is None:
            raise InputError(f"zoo {self.folder}: no teachers to read; build it with 'llgbm zoo build'")
        return factors

    def open_factors(self, teachers: Sequence[Teacher], device: torch.device | str, max_bytes: int) -> LoRAFactors | StoredFactors:
        """The teachers' factors on a device, checked: all of them where they fit into `max_bytes`, else read when they are selected."""
        paths = [self.folder / teacher.path for teacher in teachers]
        if stored_bytes(paths) <= max_bytes:
            return self.factors(teachers).to(device)
        self.check(teachers)
        return StoredFactors(paths, device, max_bytes)

    def check(self, teachers: Sequence[Teacher]) -> None:
        """InputError names teachers whose files are not what the manifest says; what this zoo has checked is not read again."""
        fresh = [teacher for teacher in teachers if teacher.path not in self._sound]
        self._refuse(self.damaged(fresh), len(teachers))
        self._sound |= {teacher.path for teacher in fresh}

    def damaged(self, teachers: Sequence[Teacher] | None = None) -> dict[str, str]:
        """Path -> what is wrong, for those teachers (all by default) whose files are not what the manifest says."""
        asked, faults = self.teachers if teachers is None else teachers, {}
        for start in range(0, len(asked), READ_AT_ONCE):
            faults |= self._read(asked[start : start + READ_AT_ONCE])[1]
        return faults

    def _refuse(self, faults: Mapping[str, str], asked: int) -> None:
        """InputError when there are faults: the first as it is, of others the first names and how many they are."""
        if not faults:
            return
        first, *others = faults
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        also = f"; {len(faults)} of {asked} teachers are not, the others are {', '.join(others[:MOST_NAMED])}{more}" if others else ""
        raise InputError(faults[first] + also)

    def _read(self, teachers: Sequence[Teacher]) -> tuple[LoRAFactors | None, dict[str, str]]:
        """The factors of those that are as they were trained, and what is wrong with the others."""
        batch = read_readable([self.folder / teacher.path for teacher in teachers])
        reasons = dict(batch.failures)
        recorded = {str(self.folder / teacher.path): teacher for teacher in teachers}
        for i, path in enumerate(batch.paths):
            assert batch.factors is not None
            found = batch.factors.content_hash(i)
            if found != recorded[path].hash:
                reasons[path] = f"its weights have hash {found[:8]}, the manifest says {recorded[path].hash[:8]}"
        verb, remedy = "trained", f"'llgbm zoo build --zoo {self.folder}' trains it again"
        if self.imported is not None:
            verb, remedy = "imported", f"'llgbm zoo import' into {self.folder} from where it came takes it again"
        faults = {
            recorded[path].path: f"teacher {recorded[path].path} of zoo {self.folder} is not as it was {verb} ({reason}); {remedy}"
            for path, reason in reasons.items()
        }
        return batch.factors, faults
