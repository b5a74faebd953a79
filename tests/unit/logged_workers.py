"""The workers of stages, which write down what they begin and end, and one of which is killed in the middle of an item when it is asked to.

Lines stand in a file of the config's output_dir; a file `kill` there asks.
"""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llgbm.config import ExperimentConfig
from llgbm.delta import Measuring
from llgbm.evaluation.answering import EvaluationWorker, load_worker
from llgbm.lora.factors import LoRAFactors
from llgbm.probes import ProbeSet
from llgbm.scoring import Score
from llgbm.studies.cells import CellWorker
from llgbm.study.config import Method
from llgbm.study.folder import RunResult
from llgbm.study.runs import RunWorker
from llgbm.study.search import TrialWorker, Tried
from llgbm.study.training import Settings
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


class LoggedCells(CellWorker):
    """Dies in the middle of a training; lines stand beside the study's folder."""

    def perform(self, cell: str, config: ExperimentConfig, tick: Any = None) -> dict[str, Any]:
        folder = Path(config.output_dir).parent

        def die_later(step: int, **figures: Any) -> None:
            if step == 2:
                die_if_asked(folder)

        return logged(folder, cell, lambda: super(LoggedCells, self).perform(cell, config, die_later))


class LoggedAnswering(EvaluationWorker):
    """Dies when it has scored a method; lines stand beside its cache."""

    def score(self, method: str, splits: Sequence[str], tick: Any = None) -> dict[str, list[Score]]:
        folder = Path(str(self.setting.cache_dir)).parent

        def work() -> dict[str, list[Score]]:
            found = super(LoggedAnswering, self).score(method, splits)
            die_if_asked(folder)
            return found

        return logged(folder, f"{method}:{'+'.join(splits)}", work)


def load_logged_worker(*given: Any) -> LoggedAnswering:
    """As `load_worker`."""
    loaded = load_worker(*given)
    return LoggedAnswering(loaded.setting, loaded.checkpoint)


def dying_half_way(folder: Path, size: float) -> Callable[..., None]:
    """Progress of a piece of that size, in whose middle the process may die."""

    def report(inside: float, **figures: Any) -> None:
        if inside > size / 2:
            die_if_asked(folder)

    return report


class LoggedRuns(RunWorker):
    """Dies in the middle of a training; lines stand beside the study's folder."""

    def perform(self, task: str, method: Method, seed: int, settings: Settings, size: float, tick: Any = None) -> RunResult:
        folder = self.study.folder.parent
        report = dying_half_way(folder, size)
        return logged(folder, f"{method}-{seed}", lambda: super(LoggedRuns, self).perform(task, method, seed, settings, size, report))


class LoggedTrials(TrialWorker):
    """Dies when a trial has said how far it is; lines stand beside the study's folder."""

    def attempt(self, task: str, method: Method, number: int, hyperparameters: Any, size: float, tick: Any = None) -> Tried:
        folder = self.study.folder.parent
        report = dying_half_way(folder, size)
        return logged(folder, f"{number}", lambda: super(LoggedTrials, self).attempt(task, method, number, hyperparameters, size, report))
