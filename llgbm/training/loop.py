"""The one training loop: conditions in, adapters out, compared with the teachers, until the steps are done.

A step is a function of seed, step number and weights alone, so a run that was interrupted and resumed ends with the
same bits on the CPU as one that was not.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LoggerType, get_available_trackers

from llgbm.config import ExperimentConfig, content
from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.functional_lora.recompute import recompute_layers
from llgbm.losses import OBJECTIVES, active_terms, objective_loss, parse_schedules, schedule_factor
from llgbm.models.generator import LoRAGenerator
from llgbm.models.reader import CONFIG_FILE
from llgbm.progress import ProgressCallback
from llgbm.scoring import score
from llgbm.tracking.environment import set_seed
from llgbm.tracking.record import ExperimentLogger, cut_metrics
from llgbm.training.checkpoints import (
    check_origin,
    clear_run,
    complete_steps,
    load_checkpoint,
    origin,
    prune_checkpoints,
    refuse_other_kind,
    save_checkpoint,
    step_folder,
)
from llgbm.training.plan import StepPlan, plan_step
from llgbm.training.probe_targets import ProbeTargets
from llgbm.training.setup import Setup, new_generator, prepare
from llgbm.training.step import compare, generate, validate
from llgbm.training.targets import TargetOptions, TeacherTargets


class DivergedError(RuntimeError):
    """A loss term or the gradient is not finite; the message names it and the checkpoint that remains."""


@dataclass(frozen=True)
class TrainingResult:
    """Where a run lies and how it ended."""

    folder: Path
    generator: Path
    """Folder of the generator with the best validation score (the last one without validation)."""
    steps: int
    best_step: int
    validation: dict[str, float]
    """Exact match and NLL of the kept generator on held-back tasks, and the teachers' exact match there."""
    seconds: float


@dataclass
class LoopState:
    """What a checkpoint stores beside weights and optimizer."""

    step: int = 0
    best_step: int = 0
    best: dict[str, float] | None = None
    seconds: float = 0.0

    def improves(self, found: Mapping[str, float]) -> bool:
        """Whether it ranks above the best so far; without validation the newest is the best."""
        return self.best is None or not found or self.rank(found) > self.rank(self.best)

    def rank(self, found: Mapping[str, float]) -> tuple[float, ...]:
        """Higher exact match, or the same with lower NLL."""
        return found["exact_match"], -found["nll"]


def train_generator(config: ExperimentConfig, resume: bool = False, progress: ProgressCallback | None = None) -> TrainingResult:
    """Train a generator on the zoo's seen teachers; write the run folder.

    Args:
        config: Everything that decides the result.
        resume: Go on from the newest complete checkpoint of the run folder, if there is one; a finished run is returned as it is.
        progress: Called with the step, the number of steps, and the current figures.

    Raises:
        InputError: A setting, the zoo or a checkpoint does not fit.
        DivergedError: A loss is not finite.
    """
    weights = active_terms(_weights(config))
    run = _Run(config, weights, resume)
    try:
        result = run.train(progress)
    except BaseException as error:
        run.close(failed=error)
        raise
    run.close()
    return result


class _Run:
    """One training run and everything it holds."""

    def __init__(self, config: ExperimentConfig, weights: dict[str, float], resume: bool) -> None:
        self.config, self.weights = config, weights
        self.schedules = parse_schedules(config.training.schedules)
        self.folder = config.run_folder
        self.checkpoints = self.folder / "checkpoints"
        self.accelerator = _accelerator(config, self.folder)
        self.is_main = self.accelerator.is_main_process
        self._check_shares()
        refuse_other_kind(self.folder, "generator")
        set_seed(config.seed)
        self.setup: Setup = prepare(config, str(self.accelerator.device))
        if config.training.gradient_checkpointing:
            recompute_layers(self.setup.functional)
        generator = new_generator(config, self.setup).to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            generator.parameters(), lr=config.training.learning_rate, weight_decay=config.training.weight_decay, fused=True
        )
        self.generator: LoRAGenerator = generator
        self.model, self.optimizer = self.accelerator.prepare(generator, optimizer)
        self.state = self._restore(optimizer) if resume else LoopState()
        self.logger: ExperimentLogger | None = None
        self.begun = False

    def _begin(self) -> None:
        """Take over the run folder; called when the first step is done, so that bad input costs an earlier run nothing."""
        if self.is_main:
            if not self.state.step:
                clear_run(self.folder, "generator")
            self.logger = self._open_log()
        self.begun = True
        self.accelerator.wait_for_everyone()

    def _open_log(self) -> ExperimentLogger:
        logger = ExperimentLogger(self.config.output_dir, self.config.experiment_name)
        logger.log_config(content(self.config))
        setup = self.setup
        logger.log_inputs(base=setup.base.content_hash, zoo=setup.zoo.content_hash, encoder=setup.encoder.content_id)
        self.config.save(self.folder / "config.yaml")
        return logger

    def train(self, progress: ProgressCallback | None) -> TrainingResult:
        training = self.config.training
        self.targets = TeacherTargets(self.setup.functional, self.setup.train.factors, self.setup.train.examples, self._options())
        self.probes = ProbeTargets.build(self.setup, self.config, frozenset(self.weights))
        teachers = self._teachers_on_validation()
        start = time.perf_counter() - self.state.seconds
        while self.state.step < training.total_steps:
            figures = self._step()
            if not self.begun:
                self._begin()
            self.state.step += 1
            self.state.seconds = time.perf_counter() - start
            step, last = self.state.step, self.state.step == training.total_steps
            found = self._validate() if last or step % training.eval_interval == 0 else {}
            if found or last or step % training.log_interval == 0:
                self._log(step, {**figures, **{f"validation/{k}": v for k, v in found.items()}})
            improved = bool(found or last) and self.state.improves(found)
            if improved:
                self.state.best_step, self.state.best = step, found or None
            if improved or last or step % training.save_interval == 0:
                self._save()
            if progress is not None and self.is_main:
                progress(step, training.total_steps, **_shown(figures, self.state.best))
        if not self.begun and not (self.folder / "generator" / CONFIG_FILE).exists():  # interrupted after the last step
            self._begin()
        return self._finish(teachers)

    def _step(self) -> dict[str, float]:
        """One update; its figures, averaged over processes."""
        config, training, began = self.config, self.config.training, time.perf_counter()
        learning_rate = training.learning_rate * schedule_factor(
            "warmup_cosine", self.state.step, training.warmup_steps, training.total_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        plan = plan_step(
            config.seed,
            self.state.step,
            len(self.setup.train),
            training.tasks_per_step,
            self.setup.train.per_teacher,
            training.examples_per_task,
        )
        share = len(plan) // self.accelerator.num_processes
        plan = plan.part(share * self.accelerator.process_index, share * (self.accelerator.process_index + 1))
        weights = self._scheduled_weights()
        totals = self._averaged(self._accumulate(plan, weights))
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.model.parameters(), training.max_grad_norm)).item()
        self._check_finite({**totals, "gradient": norm})
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        return {
            **totals,
            "lr": learning_rate,
            **{f"weight/{name}": w for name, w in weights.items()},
            "grad_norm": norm,
            "adapters_per_second": training.tasks_per_step / seconds,
        }

    def _scheduled_weights(self) -> dict[str, float]:
        """Each term's weight now: its own schedule, or lambda's for behavioral terms."""
        training, scheduled = self.config.training, {}
        for name, weight in self.weights.items():
            behavioral = OBJECTIVES[name].behavioral
            kind = self.schedules.get(name, training.lambda_schedule if behavioral else "constant")
            factor = schedule_factor(kind, self.state.step, training.lambda_warmup_steps, training.total_steps)
            scheduled[name] = weight * factor * (training.lambda_delta if behavioral else 1.0)
        return scheduled

    def _accumulate(self, plan: StepPlan, weights: Mapping[str, float]) -> dict[str, float]:
        """Gradients of one step, a few adapters at a time; the loss and each unweighted term, averaged over the adapters."""
        totals: dict[str, float] = {}
        at_once = self.config.training.batch_size
        for start in range(0, len(plan), at_once):
            part = plan.part(start, start + at_once)
            is_last = start + at_once >= len(plan)
            with self.accelerator.autocast():
                reword = self.targets.options.needs("wordings")
                generated = generate(self.model, part, self.setup.train, self.setup.conditions, self.accelerator.device, reword)
                comparison = compare(generated, part, self.setup.train, self.targets, self.probes, self.config.training.delta_loss_type)
                loss, terms = objective_loss(comparison, weights)
            share = len(part) / len(plan)
            found = {"loss": loss.item(), **{f"loss/{name}": value.item() for name, value in terms.items()}}
            self._check_finite(found)
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + share * value
            if is_last:
                self.accelerator.backward(loss * share)
            else:
                with self.accelerator.no_sync(self.model):
                    self.accelerator.backward(loss * share)
        return totals

    def _averaged(self, figures: dict[str, float]) -> dict[str, float]:
        """Means over processes; every process holds the same share of the step's adapters."""
        if self.accelerator.num_processes == 1:
            return figures
        values: Any = torch.tensor(list(figures.values()), device=self.accelerator.device)
        reduced: Any = self.accelerator.reduce(values, "mean")
        return dict(zip(figures, reduced.tolist(), strict=True))

    def _check_finite(self, figures: Mapping[str, float]) -> None:
        bad = [name for name, value in figures.items() if not math.isfinite(value)]
        if not bad or (bad == ["gradient"] and self.config.training.mixed_precision == "fp16"):  # the scaler skips such a step
            return
        name = next((n for n in bad if n != "loss"), bad[0]).removeprefix("loss/")
        kept = complete_steps(self.checkpoints) if self.begun or self.state.step else []
        left = f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint was written yet"
        raise DivergedError(
            f"training stopped at step {self.state.step + 1}: {name} is {figures.get(f'loss/{name}', figures.get(name))}; {left}; "
            "lower training.learning_rate, or the weight of that term"
        )

    def _check_shares(self) -> None:
        training, processes = self.config.training, self.accelerator.num_processes
        if training.tasks_per_step % processes:
            raise InputError(
                f"training.tasks_per_step {training.tasks_per_step} cannot be shared evenly by {processes} processes; give a multiple"
            )

    def _options(self) -> TargetOptions:
        layers = tuple(range(1, self.setup.functional.n_layers + 1))
        training = self.config.training
        return TargetOptions(frozenset(self.weights), layers, training.kl_top_k, int(training.target_cache_gb * 2**30))

    def _validate(self) -> dict[str, float]:
        held = self.setup.validation
        if held is None:
            return {}
        return validate(self.generator, self.setup.functional, self.setup.conditions, held, self.config.training.batch_size)

    def _teachers_on_validation(self) -> dict[str, float]:
        held = self.setup.validation
        return {} if held is None else {"teacher_exact_match": score(self.setup.functional, held.factors, held.examples).exact_match}

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        if self.logger:
            self.logger.log_metrics(step, dict(figures))
        self.accelerator.log(dict(figures), step=step)

    def _save(self) -> None:
        """The newest checkpoint and the best one stay; older ones go."""
        if not self.is_main:
            return
        raw: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        state = self.state
        stored = {
            "step": state.step,
            "best_step": state.best_step,
            "best": state.best,
            "seconds": state.seconds,
            **origin(self.config, self.setup.zoo),
        }
        save_checkpoint(step_folder(self.checkpoints, state.step), self.generator, raw, stored)
        prune_checkpoints(self.checkpoints, {state.step, state.best_step})

    def _restore(self, optimizer: torch.optim.Optimizer) -> LoopState:
        """Load the newest complete checkpoint; step 0 when there is none."""
        steps = complete_steps(self.checkpoints)
        if not steps:
            return LoopState()
        folder = step_folder(self.checkpoints, steps[-1])
        stored = load_checkpoint(folder, self.generator, optimizer)
        check_origin(folder, stored, origin(self.config, self.setup.zoo))
        cut_metrics(self.folder / "metrics.jsonl", stored["step"])
        return LoopState(stored["step"], stored["best_step"], stored["best"], stored["seconds"])

    def _finish(self, teachers: dict[str, float]) -> TrainingResult:
        self.accelerator.wait_for_everyone()
        best = LoRAGenerator.from_pretrained(step_folder(self.checkpoints, self.state.best_step))
        figures = {**(self.state.best or {}), **teachers}
        if self.logger:
            best.save_pretrained(self.folder / "generator")
            write_json(self.folder / "training.json", {"steps": self.state.step, "best_step": self.state.best_step, **figures})
        return TrainingResult(self.folder, self.folder / "generator", self.state.step, self.state.best_step, figures, self.state.seconds)

    def close(self, failed: BaseException | None = None) -> None:
        """End the trackers and close the log, whatever happened."""
        if self.logger and failed is not None:
            self.logger.fail(failed)
        elif self.logger:
            self.logger.finalize({"best_step": self.state.best_step, **(self.state.best or {})})
        self.accelerator.end_training()


def _weights(config: ExperimentConfig) -> dict[str, float]:
    return {name: float(value) for name, value in vars(config.objective).items()}


def _accelerator(config: ExperimentConfig, folder: Path) -> Accelerator:
    """One accelerator; the device follows `model.device`.

    accelerate keeps the precision of the first Accelerator in a process-wide singleton; a process may train several
    generators, so it is reset first.
    """
    AcceleratorState._reset_state()
    precision, tracker = config.training.mixed_precision, config.training.report_to
    on_cpu = config.model.device == "cpu"
    if precision == "fp16" and on_cpu:
        raise InputError("training.mixed_precision fp16 needs a GPU; use bf16 or no on the CPU")
    if tracker == "none":
        return Accelerator(cpu=on_cpu, mixed_precision=precision)
    if LoggerType(tracker) not in get_available_trackers():
        raise InputError(f"training.report_to {tracker}: it is not installed; install llgbm[track], or set it to none")
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, log_with=tracker, project_dir=str(folder))
    accelerator.init_trackers(config.experiment_name, config=_trackable(content(config)))
    return accelerator


def _trackable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Trackers take numbers and strings only."""
    return {name: value if isinstance(value, int | float | str) else json.dumps(value) for name, value in values.items()}


def _shown(figures: Mapping[str, float], best: Mapping[str, float] | None) -> dict[str, float]:
    """What the progress bar shows: the loss, its terms, and the best validation exact match so far."""
    shown = {name.removeprefix("loss/"): value for name, value in figures.items() if name.startswith("loss")}
    return shown | ({"validation": best["exact_match"]} if best else {})
