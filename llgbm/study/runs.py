"""The runs of a study: every task, method and seed trained once, with its states on the way and its scores at the end."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn
from transformers import PreTrainedModel

from llgbm.dataset import pad_id
from llgbm.errors import InputError
from llgbm.fanout.claims import Claims, Piece
from llgbm.fanout.crew import Engine, Job, Tick
from llgbm.fanout.local import Local
from llgbm.files import hash_json, whole_folder
from llgbm.progress import ProgressCallback, Tally
from llgbm.study.config import Method
from llgbm.study.folder import STATES, RunResult, Study
from llgbm.study.settings import chosen_settings
from llgbm.study.states import Probes, StatesRecorder
from llgbm.study.task import StudyTask
from llgbm.study.training import LogWriter, Settings, Ticker, Validator, build_model, count_parameters, fit, numbers
from llgbm.study.worker import StudyWorker
from llgbm.tracking.record import METRICS_FILE, ExperimentLogger
from llgbm.zoo.base import no_bars

MODELS = {"full": "model", "lora": "adapter"}
"""Method -> where a run keeps what it trained."""


class DivergedError(InputError):
    """A run came to weights that predict nothing."""


@dataclass(frozen=True)
class Runs:
    """All runs of a study."""

    results: list[RunResult]

    def rows(self) -> list[dict[str, Any]]:
        """One for each, for a table."""
        names = dict.fromkeys(name for result in self.results for name in result.metrics)
        return [
            {
                **{"task": result.task, "method": result.method, "seed": result.seed},
                **{name: result.metrics.get(name) for name in names},
                **{"steps": result.steps, "seconds": round(result.seconds, 1)},
            }
            for result in self.results
        ]


def run_runs(study: Study, progress: ProgressCallback | None = None, engine: Engine | None = None) -> Runs:
    """Finish every run of the study; what is finished is not done again, a run that was killed begins anew.

    Several processes may do so together: each leaves alone what another works at.

    Args:
        study: Of which runs.
        progress: Called with the examples learned from, and all.
        engine: Where runs are trained; in this process by default. Workers write models and states in the study's folder.

    Raises:
        InputError: A search has not ended, or a task cannot be read; once all others are finished, runs have diverged.
        BusyError: Another process still works at one of the runs, and all others are finished.
    """
    diverged: list[str] = []

    def commit(found: RunResult | str) -> None:
        if isinstance(found, str):
            diverged.append(found)
        else:
            study.write_result(found)

    pending = [run for run in study.runs() if study.result(*run) is None]
    if pending:
        settings = {(task, method): chosen_settings(study, task, method) for task, method, _ in pending}
        job = Job(RunWorker, (study.config, str(study.folder)), study.folder)
        with Claims() as claims, (engine or Local()).crew(job) as crew:
            found = crew.ask("survey")
            sizes = {task: study.config.training.epochs * found[task].train_examples for task, _, _ in pending}
            pieces = [_piece(study, run, settings[run[:2]], sizes[run[0]], commit) for run in pending]
            tally = Tally(sum(piece.size for piece in pieces), progress, crew.figures)
            tally.tick()
            for piece in claims.perform(crew, "perform", pieces, tally.tick):
                tally.add(piece.size)
    if diverged:
        raise InputError("; ".join(diverged))
    return Runs([found for run in study.runs() if (found := study.result(*run)) is not None])


def _piece(study: Study, run: tuple[str, Method, int], settings: Settings, size: float, commit: Callable[[RunResult | str], None]) -> Piece:
    """A run, and what it is finished by."""
    task, method, seed = run
    name, folder = f"the run of {task} by {method} with seed {seed}", study.run_folder(*run)
    return Piece(name, size, (folder,), (*run, settings, size), lambda: study.result(*run) is not None, commit)


class RunWorker(StudyWorker):
    """A worker of `run_runs`."""

    def perform(self, task: str, method: Method, seed: int, settings: Settings, size: float, tick: Tick | None = None) -> RunResult | str:
        """Train a run in its folder, which whoever asks holds; of one that diverged, what is to be said."""

        def report(share: float) -> None:
            if tick is not None:
                tick(share * size, task=task, method=method, seed=seed)

        report(0.0)
        try:
            return perform_run(self.study, self.tasks[task], method, seed, settings, report)
        except DivergedError as error:
            return str(error)


def perform_run(study: Study, task: StudyTask, method: Method, seed: int, settings: Settings, report: Callable[[float], None]) -> RunResult:
    """Train, record, score on the test examples, keep what was trained; the result is still to be written, last of all."""
    folder, config = study.run_folder(task.name, method, seed), study.config
    _forget(folder)
    with ExperimentLogger(folder.parent, folder.name, level="basic") as logger:
        logger.log_config({**numbers(settings), "task": task.name, "method": method, "seed": seed, "model": config.model.name})
        logger.log_inputs(examples=hash_json([task.example_ids(part) for part in ("train", "validation", "test")]))
        model = build_model(task, method, settings, seed)
        trainable, total = count_parameters(model)
        probes = Probes(task.probes(config.probes.count), pad_id(task.backbone.tokenizer))

        def validated(step: int, done: int, scored: Any) -> None:
            logger.log_metrics(step, {f"validation_{name}": value for name, value in scored.metrics.items()})

        hooks = [
            StatesRecorder(probes, config.probes.every_steps, lambda step: study.states_file(task.name, method, seed, step)),
            Validator(task, config.training.evaluations, validated),
            LogWriter(logger.log_metrics),
            Ticker(report),
        ]
        fitted = fit(task, model, settings, config.training, seed, hooks=hooks)
        scored = task.score(fitted.model, "test")
        if not all(map(math.isfinite, scored.metrics.values())):
            raise DivergedError(
                f"the run of {task.name} by {method} with seed {seed} diverged; its learning rate is {settings.learning_rate:g}, "
                "give a lower one, and another folder"
            )
        if config.training.save in ("all", MODELS[method]):
            _keep(fitted.model, folder / MODELS[method])
        result = RunResult(
            task=task.name,
            method=method,
            seed=seed,
            hyperparameters=numbers(settings),
            metric=task.metric,
            metrics=scored.metrics,
            scores=scored.scores,
            example_ids=task.example_ids("test"),
            steps=fitted.steps,
            seconds=fitted.seconds,
            trainable_parameters=trainable,
            total_parameters=total,
        )
        logger.finalize(scored.metrics)
    return result


def _forget(folder: Path) -> None:
    """Remove what an attempt that did not finish left."""
    for name in (STATES, *MODELS.values()):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / METRICS_FILE).unlink(missing_ok=True)


def _keep(model: nn.Module, folder: Path) -> None:
    """Write a model, or of one with LoRA the adapter and the head, in transformers' and PEFT's formats; spans' as safetensors alone."""
    from peft import PeftModel

    with whole_folder(folder) as place, no_bars():
        if isinstance(model, PeftModel):
            model.save_pretrained(str(place), save_embedding_layers=False)
        elif isinstance(model, PreTrainedModel):
            model.save_pretrained(str(place))
        else:
            save_model(model, str(place / "model.safetensors"))
