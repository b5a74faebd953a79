"""The state of a script's own loop: named tensors and figures of a step, on disk whole or not at all, and damaged ones known as such."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from safetensors.torch import load_file, save
from torch import Tensor

from llgbm.checking import RECORD, Integer, Number, read_as
from llgbm.errors import InputError
from llgbm.files import hash_file, read_json, whole_folder, write_bytes, write_json

TENSORS_FILE, STATE_FILE = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a loop has after a step: all it takes to go on from there."""

    step: int
    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Finite numbers."""


@checked(frozen=True, config=RECORD)
class StateRecord:
    """What a `state.json` holds."""

    step: Annotated[Integer, Field(ge=0)]
    made_with: str
    sha256: str
    metrics: dict[str, Number]


class StateFolder:
    """Checkpoints below a folder, one folder a step, all of one call.

    Args:
        folder: Where they lie.
        made_with: Hash of what decides them; a folder of others is refused.
    """

    def __init__(self, folder: str | Path, made_with: str) -> None:
        self.folder, self.made_with = Path(folder), made_with

    def write(self, state: Checkpoint) -> None:
        """InputError when a metric is not a finite number."""
        for name, value in state.metrics.items():
            if not math.isfinite(value):
                raise InputError(f"step {state.step}: metric {name} is {value}, which cannot be recorded; stop there, or leave it out")
        shutil.rmtree(self._of(state.step), ignore_errors=True)  # one that was damaged
        with whole_folder(self._of(state.step)) as folder:
            write_bytes(folder / TENSORS_FILE, save({name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}))
            record = {"step": state.step, "made_with": self.made_with, "sha256": hash_file(folder / TENSORS_FILE)}
            write_json(folder / STATE_FILE, {**record, "metrics": dict(state.metrics)})

    def newest(self) -> Checkpoint | None:
        """The last one that is as it was written; None when there is none. InputError when it is of another call."""
        for step in reversed(self.steps()):
            record = self._record(step)
            if record is not None and record.made_with != self.made_with:
                raise InputError(f"{self._of(step)}: was made with other arguments; give another folder, or remove {self.folder}")
            if record is not None:
                return Checkpoint(record.step, load_file(self._of(step) / TENSORS_FILE), record.metrics)
        return None

    def figures(self, metric: str) -> dict[int, float]:
        """Step -> metric of all that are as they were written and have it."""
        records = [record for step in self.steps() if (record := self._record(step)) is not None]
        return {record.step: record.metrics[metric] for record in records if metric in record.metrics}

    def keep(self, steps: set[int]) -> None:
        """Remove all others."""
        for step in set(self.steps()) - steps:
            shutil.rmtree(self._of(step))

    def steps(self) -> list[int]:
        """Of all that are there, whole or not, in order."""
        names = (path.name.removeprefix("step_") for path in self.folder.glob("step_*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _of(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def _record(self, step: int) -> StateRecord | None:
        """None when the checkpoint is damaged."""
        place = self._of(step)
        try:
            values: Any = read_json(place / STATE_FILE)
            record = read_as(StateRecord, values, str(place))
            return record if hash_file(place / TENSORS_FILE) == record.sha256 else None
        except (InputError, OSError):
            return None
