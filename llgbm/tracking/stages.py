"""Stages that run once: a stage is skipped when its outputs are there and were made from the same inputs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llgbm.files import hash_json, read_json, write_json


class Stages:
    """Remembers, in one JSON file, which stage made its outputs from which inputs."""

    def __init__(self, record: str | Path) -> None:
        self.record = Path(record)

    def run(self, name: str, inputs: Any, outputs: Sequence[str | Path], work: Callable[[], object]) -> bool:
        """Do the work unless it is done; whether it was done now.

        Args:
            name: The stage.
            inputs: Everything that decides the outputs, as JSON: hashes, options.
            outputs: Files and folders the stage writes.
            work: Called without arguments; if it raises, the stage counts as not done.
        """
        if self.is_done(name, inputs, outputs):
            return False
        self.forget(name)
        work()
        write_json(self.record, {**self._known(), name: hash_json(inputs)})
        return True

    def is_done(self, name: str, inputs: Any, outputs: Sequence[str | Path]) -> bool:
        """Whether `run` would have nothing to do."""
        return self._known().get(name) == hash_json(inputs) and all(Path(path).exists() for path in outputs)

    def forget(self, name: str) -> None:
        """Let a stage count as not done."""
        write_json(self.record, {stage: key for stage, key in self._known().items() if stage != name})

    def _known(self) -> dict[str, str]:
        return read_json(self.record) if self.record.exists() else {}
