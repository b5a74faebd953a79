"""What every recorded stage that can be run again has: its record, the command that repeats it, and what it came to."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file

from llgbm.config import ExperimentConfig, content
from llgbm.files import hash_tensors, read_json
from llgbm.tracking.comparison import RunRecord
from llgbm.tracking.record import RECORD_FILE
from llgbm.tracking.validation import recorded_environment

LARGEST_EXPONENT = 700.0
"""Above it a perplexity has no float."""


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """A stage as it is recorded."""

    folder: Path
    """Of a zoo, run or cache; of an evaluation its file."""
    config: ExperimentConfig
    kind: str
    writes: ClassVar[str] = "run"
    """What a repetition writes in its place."""

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.config.model.device

    @property
    def environment(self) -> dict[str, Any]:
        """Where it ran. InputError where that is not recorded."""
        return recorded_environment(self.folder)

    @abstractmethod
    def command(self, place: Path) -> list[str]:
        """The arguments of `llgbm` that run it again, writing `writes` in a place of its own."""

    @abstractmethod
    def read(self, folder: Path, name: str) -> RunRecord:
        """What a repetition, or the recorded one, came to."""

    def around(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """An environment without the accelerator that a run on the CPU did not use."""
        return {**environment, **({"gpu_name": None} if self.device == "cpu" else {})}


def read_record(stage: Stage, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of a `metadata.json`: the environment, the settings with the hashes of what was read, and the points that were looked up."""
    recorded = read_json(folder / RECORD_FILE)
    settings = {**content(stage.config), **recorded.get("config", {})}
    settings |= {f"input {key}": value for key, value in recorded.get("inputs", {}).items()}
    return stage.around(recorded_environment(folder)), settings, recorded.get("points", {})


def tensor_hashes(folder: Path, parts: Iterable[Path]) -> dict[str, str]:
    """Path within a folder -> SHA-256 of its tensors, of the safetensors files in some parts of it."""
    files = sorted(path for part in parts for path in part.rglob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): tensor_hash(path) for path in files}


def tensor_hash(file: Path) -> str:
    """SHA-256 of a safetensors file's tensors, or `gone`."""
    return hash_tensors(load_file(file)) if file.is_file() else "gone"


def perplexity(nll: float) -> float:
    """Of a mean negative log-likelihood in nats."""
    return math.exp(min(nll, LARGEST_EXPONENT))
