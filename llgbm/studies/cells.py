"""What a worker does that trains cells of a study: each in its run folder, from its newest checkpoint on, and then its evaluation."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import Any

from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.evaluation.task_eval import evaluate
from llgbm.fanout.crew import Tick
from llgbm.files import hash_json
from llgbm.studies.variants import Study
from llgbm.training.behavior import train_generator
from llgbm.training.soft_prompt import train_soft_prompt
from llgbm.zoo.base import BaseOptions
from llgbm.zoo.folder import TeacherZoo

SOFT_PROMPT = "soft_prompt"


class CellWorker:
    """A worker of `run_study`, which trains and evaluates cells in their folders.

    Args:
        study: How cells are judged.
        zoos: Folder -> the zoo's content.

    Raises:
        InputError: There is another zoo here.
    """

    def __init__(self, study: Study, zoos: Mapping[str, str]) -> None:
        self.study, self.zoos = study, zoos
        for folder, content in zoos.items():
            if TeacherZoo.load(folder).content_hash != content:
                raise InputError(f"{folder}: the worker on {gethostname()} has another zoo there; give every node the same one")

    @property
    def identity(self) -> str:
        """Hash of study and zoos."""
        return hash_json([asdict(self.study), self.zoos])

    def perform(self, cell: str, config: ExperimentConfig, tick: Tick | None = None) -> dict[str, Any]:
        """Train a cell, from its newest checkpoint on; its evaluation. Whoever asks holds its folders."""
        study, folder = self.study, config.run_folder
        report = None if tick is None else partial(_report, tick, cell)
        train_generator(config, begin="go_on", progress=report, held=True)
        soft_prompt = None
        if SOFT_PROMPT in study.methods:
            soft_prompt = str(train_soft_prompt(_soft_prompt(config), begin="go_on", progress=report, held=True).folder)
        chosen = EvaluationConfig(
            splits=tuple(study.splits),
            methods=tuple(study.methods),
            max_examples=study.max_examples,
            soft_prompt=soft_prompt,
            base=BaseOptions.place(config.model),
        )
        return evaluate(folder, config.checkpoint_folder, chosen, folder.parent / "cache").to_json()


def folders(study: Study, config: ExperimentConfig) -> tuple[Path, ...]:
    """Where a cell writes its runs."""
    return (config.run_folder, *([_soft_prompt(config).run_folder] if SOFT_PROMPT in study.methods else []))


def _soft_prompt(config: ExperimentConfig) -> ExperimentConfig:
    """The same run with virtual tokens in the place of adapters, beside it."""
    return replace(config, experiment_name=f"{config.experiment_name}-soft-prompt")


def _report(tick: Tick, cell: str, step: int, steps: int, **figures: Any) -> None:
    """A run's progress as a cell's."""
    tick(step, cell=cell, **{key: figures[key] for key in ("loss", "validation") if key in figures})
