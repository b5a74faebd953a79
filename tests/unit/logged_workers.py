"""The workers of stages, which write down what they begin and end, and one of which is killed in the middle of an item when it is asked to.

Lines stand in a file of the config's output_dir; a file `kill` there asks.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llgbm.config import ExperimentConfig
from llgbm.delta import Measuring
from llgbm.lora.factors import LoRAFactors
from llgbm.probes import ProbeSet
from llgbm.zoo.teaching import Taught, Teaching


def lines(folder: Path) -> list[str]:
    """What was written down."""
    return (folder / "lines").read_text().splitlines()


def logged(folder: Path, name: str, work: Callable[[], Any]) -> Any:
    """Do the work between two lines."""
    with (folder / "lines").open("a") as file:
        print("begin", name, os.getpid(), file=file, flush=True)
        found = work()
        print("end", name, os.getpid(), file=file, flush=True)
    return found


def die_if_asked(folder: Path) -> None:
    """One process alone finds the file, and dies as when the system takes its memory."""
    try:
        (folder / "kill").unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class LoggedTeaching(Teaching):
    """Dies in the middle of a training."""

    def train(self, batch: Any, wanted: Any, tick: Any = None) -> Taught:
        folder = Path(self.config.output_dir)
        return logged(
            folder, batch[0][0].name, lambda: super(LoggedTeaching, self).train(batch, wanted, lambda *_, **__: die_if_asked(folder))
        )


class LoggedMeasuring(Measuring):
    """Dies with deltas that it has not handed over."""

    folder: Path

    @classmethod
    def load(cls, config: ExperimentConfig, probes: ProbeSet, *others: Any) -> "LoggedMeasuring":
        made = super().load(config, probes, *others)
        assert isinstance(made, cls)
        made.folder, made.engine.adapters_at_once = Path(config.output_dir), 1
        return made

    def deltas(self, factors: LoRAFactors, tick: Any = None) -> np.ndarray:
        def work() -> np.ndarray:
            found = super(LoggedMeasuring, self).deltas(factors)
            die_if_asked(self.folder)
            return found

        return logged(self.folder, factors.content_hash()[:8], work)
