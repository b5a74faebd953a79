"""The folder of a study: its config, where each step writes, and the results of its runs, checked when read.

study.json, checks.json, search/TASK/METHOD/, runs/TASK/METHOD/seed-N/, drift.json, deployment.json, hypotheses.json, report.html.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Integer, List, Number, read_as
from llgbm.dotted import flatten
from llgbm.errors import InputError
from llgbm.files import read_json, write_json
from llgbm.names import path_part, refuse_twins
from llgbm.study.config import Method, StudyConfig

CONFIG_FILE, RESULT_FILE, CHECKS_FILE = "study.json", "result.json", "checks.json"
STATES, BEST_FILE = "states", "best.yaml"
FREE = ("model.device", "model.memory_gb", "tasks", "methods", "seeds", "search.trials")
FREE_SECTIONS = ("deployment.", "hypotheses.")
"""What may differ from the config a folder was begun with: it adds runs, or decides nothing that a finished run depends on."""
_STEP = re.compile(r"step-(\d{6,})\.safetensors")


@dataclass(frozen=True, config=RECORD)
class RunResult:
    """What a finished run came to."""

    task: str
    method: Method
    seed: Integer
    hyperparameters: dict[str, Integer | Number]
    metric: str
    """The primary metric, whose value per example `scores` holds."""
    metrics: dict[str, Number]
    """On the test examples: the primary metric and others."""
    scores: List[Annotated[Number, Field(ge=0, le=1)]]
    """One per test example, in the order of the test split."""
    example_ids: List[str]
    """Which example each score is of."""
    steps: Annotated[Integer, Field(ge=1)]
    """Optimizer steps."""
    seconds: Annotated[Number, Field(ge=0)]
    """Of training, without evaluation and recording."""
    trainable_parameters: Annotated[Integer, Field(ge=1)]
    total_parameters: Annotated[Integer, Field(ge=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "RunResult":
        if not self.scores or len(self.scores) != len(self.example_ids):
            raise ValueError(f"{len(self.scores)} scores for {len(self.example_ids)} examples; there is one for each, and one at least")
        if self.metric not in self.metrics:
            raise ValueError(f"the metric {self.metric!r} is none of {', '.join(self.metrics)}")
        return self


class Study:
    """A study and its folder.

    Args:
        config: Of the study.
        folder: Everything is written below it.
    """

    def __init__(self, config: StudyConfig, folder: str | Path) -> None:
        refuse_twins(config.tasks, "task")
        self.config, self.folder = config, Path(folder)

    @classmethod
    def open(cls, config: StudyConfig, folder: str | Path) -> "Study":
        """Begin a study in a new folder, or go on with the one that is there; `study.json` has the config from now on.

        A folder that holds nothing but a config, perhaps one that named a file which is not there, is begun anew.

        Raises:
            InputError: The folder was begun with a config under which its results would be others.
        """
        study, path = cls(config, folder), Path(folder) / CONFIG_FILE
        values = asdict(config)
        if path.exists() and any(entry != path for entry in study.folder.iterdir()):
            _refuse_other(read_json(path), values, path)
        write_json(path, values)
        return study

    @classmethod
    def load(cls, folder: str | Path) -> "Study":
        """The study of a folder, with the config it was last opened with. InputError when there is none."""
        path = Path(folder) / CONFIG_FILE
        return cls(read_as(StudyConfig, read_json(path), str(path)), folder)

    def path(self, *parts: str) -> Path:
        """A path below the study's folder; every part is one file or folder."""
        return self.folder.joinpath(*(path_part(part) for part in parts))

    def search_folder(self, task: str, method: Method) -> Path:
        """Where hyperparameters are searched."""
        return self.path("search", task, method)

    def run_folder(self, task: str, method: Method, seed: int) -> Path:
        """Where a run writes."""
        return self.path("runs", task, method, f"seed-{seed}")

    def runs(self) -> Iterator[tuple[str, Method, int]]:
        """Task, method and seed of every run of the study, finished or not."""
        for task in self.config.tasks:
            for seed in self.config.seeds:
                for method in self.config.methods:
                    yield task, method, seed

    def result(self, task: str, method: Method, seed: int) -> RunResult | None:
        """What a run came to; None while it is not finished.

        Raises:
            InputError: Its file is damaged, or another run's.
        """
        path = self.run_folder(task, method, seed) / RESULT_FILE
        if not path.exists():
            return None
        found = read_as(RunResult, read_json(path), str(path))
        if (found.task, found.method, found.seed) != (task, method, seed):
            raise InputError(f"{path}: is of {found.task}, {found.method}, seed {found.seed}; remove the folder, and run it again")
        return found

    def write_result(self, result: RunResult) -> None:
        """Write a run's result, by which it counts as finished."""
        folder = self.run_folder(result.task, result.method, result.seed)
        write_json(folder / RESULT_FILE, asdict(result))

    def states(self, task: str, method: Method, seed: int) -> dict[int, Path]:
        """Step -> the file with the states recorded then, in the order of steps."""
        folder = self.run_folder(task, method, seed) / STATES
        found = {int(match[1]): path for path in folder.glob("*.safetensors") if (match := _STEP.fullmatch(path.name))}
        return dict(sorted(found.items()))

    def states_file(self, task: str, method: Method, seed: int, step: int) -> Path:
        """Where the states of a step are written."""
        return self.run_folder(task, method, seed) / STATES / f"step-{step:06d}.safetensors"


def _refuse_other(recorded: Any, values: dict[str, Any], path: Path) -> None:
    """InputError when the recorded config decides results otherwise."""
    before = flatten(asdict(read_as(StudyConfig, recorded, str(path))))
    now = flatten(values)
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    differing = [name for name in changed if name not in FREE and not name.startswith(FREE_SECTIONS)]
    if differing:
        shown = "; ".join(f"{name} is {before.get(name)} there and {now.get(name)} now" for name in differing)
        raise InputError(f"{path.parent}: holds a study of another config ({shown}); give the same values, or another folder")
