"""The runs of a study: every task, method and seed trained once, with its states on the way and its scores at the end."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn
from transformers import PreTrainedModel

from llgbm.dataset import pad_id
from llgbm.files import hash_json, whole_folder
from llgbm.progress import ProgressCallback
from llgbm.study.config import Method
from llgbm.study.folder import STATES, RunResult, Study
from llgbm.study.meter import Meter
from llgbm.study.settings import chosen_settings
from llgbm.study.states import Probes, StatesRecorder
from llgbm.study.task import StudyTask
from llgbm.study.tasks.named import load_tasks
from llgbm.study.training import LogWriter, Settings, Ticker, Validator, build_model, count_parameters, fit, numbers
from llgbm.tracking.lock import BusyError, hold
from llgbm.tracking.record import METRICS_FILE, ExperimentLogger
from llgbm.zoo.base import no_bars

MODELS = {"full": "model", "lora": "adapter"}
"""Method -> where a run keeps what it trained."""


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


def run_runs(study: Study, progress: ProgressCallback | None = None) -> Runs:
    """Finish every run of the study; what is finished is not done again, a run that was killed begins anew.

    Several processes may do so together: each leaves alone what another works at.

    Raises:
        InputError: A search has not ended, or a task cannot be read.
        BusyError: Another process still works at one of the runs, and all others are finished.
    """
    pending = [run for run in study.runs() if study.result(*run) is None]
    if pending:
        settings = {(task, method): chosen_settings(study, task, method) for task, method, _ in pending}
        tasks = load_tasks(study.config)
        sizes = {name: study.config.training.epochs * len(task.parts.train) for name, task in tasks.items()}
        meter = Meter(sum(sizes[task] for task, _, _ in pending), progress)
        left: dict[tuple[str, Method, int], BusyError] = {}
        for task, method, seed in pending:
            meter.begin(sizes[task], task=task, method=method, seed=seed)
            try:
                perform_run(study, tasks[task], method, seed, settings[task, method], meter)
            except BusyError as error:
                left[task, method, seed] = error
        for run, error in left.items():
            if study.result(*run) is None:
                raise error
    return Runs([found for run in study.runs() if (found := study.result(*run)) is not None])


def perform_run(study: Study, task: StudyTask, method: Method, seed: int, settings: Settings, meter: Meter) -> RunResult:
    """Train, record, score on the test examples, keep what was trained, and write the result last of all."""
    with hold(study.run_folder(task.name, method, seed)):
        done = study.result(task.name, method, seed)  # perhaps by another process meanwhile
        return done or _perform(study, task, method, seed, settings, meter)


def _perform(study: Study, task: StudyTask, method: Method, seed: int, settings: Settings, meter: Meter) -> RunResult:
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
            Ticker(meter.tick),
        ]
        fitted = fit(task, model, settings, config.training, seed, hooks=hooks)
        scored = task.score(fitted.model, "test")
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
        study.write_result(result)
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
