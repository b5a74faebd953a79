"""The one training loop: a problem's steps until they are done, with checkpoints, validation, a log, and the best network kept.

A step is a function of seed, step number and weights alone, so a run that was interrupted and resumed ends with the
same bits on the CPU as one that was not. Figures stay on the device until they are logged; between these points no step
waits for the host.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from llgbm.config import ExperimentConfig, content
from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.losses import schedule_factor
from llgbm.models.reader import CONFIG_FILE
from llgbm.progress import ProgressCallback
from llgbm.tracking.environment import set_seed
from llgbm.tracking.lock import hold
from llgbm.tracking.monitor import HardwareMonitor
from llgbm.tracking.record import ExperimentLogger, cut_metrics, is_interrupted, mark_killed
from llgbm.tracking.trackers import TRACKERS, Tracker
from llgbm.tracking.validation import look_up
from llgbm.training.checkpoints import (
    check_origin,
    clear_run,
    complete_steps,
    load_best,
    load_checkpoint,
    prune_checkpoints,
    read_state,
    refuse_other_kind,
    save_checkpoint,
    step_folder,
)
from llgbm.training.plan import StepPlan
from llgbm.training.problem import Problem
from llgbm.training.processes import from_first, new_accelerator
from llgbm.training.setup import check_device
from llgbm.training.standing import Begin, check_begin
from llgbm.training.watch import FiniteWatch


class DivergedError(RuntimeError):
    """A loss term or the gradient is not finite; the message names it and the checkpoint that remains."""


@dataclass(frozen=True)
class TrainingResult:
    """Where a run lies and how it ended."""

    folder: Path
    network: Path
    """Folder of the network with the best validation score (the last one without validation)."""
    steps: int
    best_step: int
    validation: dict[str, float]
    """What the problem's `validate` found of the kept network, and its `references`."""
    seconds: float


@dataclass
class LoopState:
    """What a checkpoint stores beside weights and optimizer."""

    step: int = 0
    best_step: int = 0
    best: dict[str, float] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class StepFigures:
    """What one step gave."""

    names: tuple[str, ...]
    values: Float[Tensor, " n"]
    """On the device; they are read when they are logged."""
    settings: dict[str, float]
    """Learning rate and the like, known to the host."""


def train(
    config: ExperimentConfig,
    make: Callable[[torch.device], Problem],
    begin: Begin = "new",
    progress: ProgressCallback | None = None,
    held: bool = False,
) -> TrainingResult:
    """Train what a problem asks for; write the run folder, in which no other process works meanwhile.

    Args:
        config: Everything that decides the result.
        make: Builds the problem on a device; called once the seeds are set.
        begin: Whether the run begins in its folder or goes on there.
        progress: Called with the step, the number of steps, and the figures last logged; before the first one with what is done `now`.
        held: Whoever asked holds the folder already, and keeps others out of it.

    Raises:
        InputError: A setting, what the problem reads, or a checkpoint does not fit; the folder stands otherwise than `begin` asks,
            or another process works there.
        DivergedError: A figure is not finite, in any of the processes.
    """
    accelerator, folder = new_accelerator(config), config.run_folder
    check_device(config.model.device, accelerator.device)
    with ExitStack() as stack:
        if not held:
            from_first(lambda: stack.enter_context(hold(folder)))
        from_first(lambda: check_begin(folder, begin))
        from_first(lambda: mark_killed(folder))
        if progress is not None and accelerator.is_main_process:
            progress(0, config.training.total_steps, now="loading")
        run = _Run(config, make, accelerator, resume=begin in ("resume", "go_on"))
        try:
            result = run.train(progress)
        except BaseException as error:
            run.close(failed=error)
            raise
        run.close()
        return result


class _Run:
    """One training run and everything it holds."""

    def __init__(self, config: ExperimentConfig, make: Callable[[torch.device], Problem], accelerator: Accelerator, resume: bool) -> None:
        self.config, self.accelerator = config, accelerator
        self.folder = config.run_folder
        self.checkpoints = self.folder / "checkpoints"
        self.is_main = self.accelerator.is_main_process
        self._check_shares()
        set_seed(config.seed)
        self.points = {"before": look_up(config.seed, config.model.device)}
        self.problem = make(self.accelerator.device)
        from_first(lambda: refuse_other_kind(self.folder, self.problem.kind))
        rate, decay = config.training.learning_rate, config.training.weight_decay
        self.raw_optimizer = torch.optim.AdamW(self.problem.network.parameters(), lr=rate, weight_decay=decay, fused=True)
        self.model, self.optimizer = self.accelerator.prepare(self.problem.network, self.raw_optimizer)
        self.state = self._restore() if resume else LoopState()
        self.watch, self.logger, self.begun = FiniteWatch(), None, False
        self.monitor: HardwareMonitor | None = None
        self.tracker: Tracker | None = None
        self.resumed = self.state.step > 0
        self.shown: dict[str, float] = {}

    def train(self, progress: ProgressCallback | None) -> TrainingResult:
        total, state = self.config.training.total_steps, self.state
        if state.step < total:

            def say(now: str) -> None:
                if progress is not None and self.is_main:
                    progress(state.step, total, now=now)

            self.problem.ready(say)
        references = self.problem.references()
        self.start = time.perf_counter() - state.seconds
        self._mark()
        while state.step < total:
            figures = self._step()
            state.step += 1
            if not self.begun or self._is_due("log", "eval", "save"):
                self._look(figures)
            if progress is not None and self.is_main:
                progress(state.step, total, **self.shown)
        if not self.begun and not from_first(self._is_finished):
            self._begin()  # interrupted after the last step
        return self._finish(references)

    def _is_finished(self) -> bool:
        """Whether the result is there, and the record does not say that its run was interrupted."""
        return (self.folder / self.problem.kind / CONFIG_FILE).exists() and not is_interrupted(self.folder)

    def _begin(self) -> None:
        """Take over the run folder; called when the first step is done, so that bad input costs an earlier run nothing."""
        if self.is_main:
            if not self.resumed:
                clear_run(self.folder, self.problem.kind)
            tracking = self.config.tracking
            self.logger = ExperimentLogger(self.config.output_dir, self.config.experiment_name, tracking.level, goes_on=self.resumed)
            self.logger.log_config(content(self.config))
            self.logger.log_inputs(**self.problem.inputs)
            self.logger.log_details(points=self.points)
            self.config.save(self.folder / "config.yaml")
            self.monitor = HardwareMonitor(self.folder, tracking.monitor_s, goes_on=self.resumed)
            self.monitor.__enter__()
        from_first(self._report)
        self.begun = True
        self.accelerator.wait_for_everyone()

    def _report(self) -> None:
        """Open the run's entry in the tracker that was asked for, if one was."""
        name = self.config.training.report_to
        if name != "none":
            self.tracker = TRACKERS[name](self.folder)

    def _is_due(self, *what: str) -> bool:
        """Whether this step is the last or ends an interval of one of these: log, eval, save."""
        training, step = self.config.training, self.state.step
        return step == training.total_steps or any(step % getattr(training, f"{name}_interval") == 0 for name in what)

    def _step(self) -> StepFigures:
        """One update."""
        training, step = self.config.training, self.state.step
        rate = training.learning_rate * schedule_factor("warmup_cosine", step, training.warmup_steps, training.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        names, totals = self._accumulate(self._own_share(step))
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.model.parameters(), training.max_grad_norm), device=totals.device)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        figures = torch.cat([totals, norm.float().reshape(1)])
        skips = training.mixed_precision == "fp16"  # the scaler leaves out a step whose gradient overflows
        self.watch.see(step + 1, names if skips else (*names, "gradient"), figures[:-1] if skips else figures)
        return StepFigures((*names, "grad_norm"), figures, {"lr": rate, **self.problem.settings(step)})

    def _own_share(self, step: int) -> StepPlan:
        """What this process does of a step."""
        plan, place = self.problem.plan(step), self.accelerator.process_index
        share = len(plan) // self.accelerator.num_processes
        return plan.part(share * place, share * (place + 1))

    def _accumulate(self, plan: StepPlan) -> tuple[tuple[str, ...], Tensor]:
        """Gradients of one step, a few adapters at a time; the loss and each unweighted term, averaged over the adapters."""
        names, totals = ("loss",), torch.zeros((), device=self.accelerator.device)
        parts = plan.parts(self.problem.at_once)
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            self._expect(following)
            with self.accelerator.autocast():
                loss, terms = self.problem.loss(self.model, part, self.state.step)
            share = len(part) / len(plan)
            names = ("loss", *(f"loss/{name}" for name in terms))
            totals = totals + share * torch.stack([loss.detach(), *terms.values()]).float()
            if following is None:
                self.accelerator.backward(loss * share)
            else:
                with self.accelerator.no_sync(self.model):
                    self.accelerator.backward(loss * share)
        return names, totals

    def _expect(self, following: StepPlan | None) -> None:
        """Let the problem read what the next part needs, of this step or of the next, while this one is computed."""
        if following is None:
            if self.state.step + 1 == self.config.training.total_steps:
                return
            following = self._own_share(self.state.step + 1).parts(self.problem.at_once)[0]
        self.problem.expect(following)

    def _look(self, taken: StepFigures) -> None:
        """Read the step's figures; log, judge and save what is due, unless something is not finite."""
        self._check_finite()
        if not self.begun:
            self._begin()
        state, figures = self.state, self._read(taken)
        state.seconds = time.perf_counter() - self.start
        found = self.problem.validate() if self._is_due("eval") else {}
        if found or self._is_due("log"):
            self._log({**figures, **{f"validation/{name}": value for name, value in found.items()}})
        improved = self._improves(found) if found or self._is_due() else False
        if improved:
            state.best_step, state.best = state.step, found or None
        if improved or self._is_due("save"):
            self._save()
        best = self.problem.shown(state.best) if state.best else {}
        self.shown = {name.removeprefix("loss/"): value for name, value in figures.items() if name.startswith("loss")} | best
        self._mark()

    def _improves(self, found: Mapping[str, float]) -> bool:
        """Whether it ranks above the best so far; without validation the newest is the best."""
        best, rank = self.state.best, self.problem.rank
        return best is None or not found or rank(found) > rank(best)

    def _mark(self) -> None:
        """From here on, steps are timed."""
        self.marked = self.state.step, time.perf_counter()

    def _read(self, taken: StepFigures) -> dict[str, float]:
        """A step's figures as numbers, averaged over processes; every process holds the same share of the step's adapters."""
        reduced: Any = self.accelerator.reduce(taken.values, "mean")
        values = dict(zip(taken.names, reduced.tolist(), strict=True))
        norm = values.pop("grad_norm")
        step, began = self.marked
        adapters = (self.state.step - step) * self.config.training.tasks_per_step
        return {**values, **taken.settings, "grad_norm": norm, "adapters_per_second": adapters / (time.perf_counter() - began)}

    def _check_finite(self) -> None:
        """Stop every process, with one message, where any of them has seen a figure that is not finite, or the weights are not."""
        largest = torch.nn.utils.get_total_norm([p.detach() for p in self.model.parameters()], torch.inf)
        self.watch.see(self.state.step, ["weights"], largest.reshape(1))
        fault = self.watch.first_fault(self.accelerator.gather)  # type: ignore[arg-type]
        if fault is None:
            return
        kept = from_first(lambda: complete_steps(self.checkpoints)) if self.begun or self.resumed else []
        left = f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint was written yet"
        raise DivergedError(
            f"training stopped at step {fault.step}: {fault.name} is {fault.value}; {left}; "
            "lower training.learning_rate, or the weight of that term"
        )

    def _check_shares(self) -> None:
        training, processes = self.config.training, self.accelerator.num_processes
        if training.tasks_per_step % processes:
            raise InputError(
                f"training.tasks_per_step {training.tasks_per_step} cannot be shared evenly by {processes} processes; give a multiple"
            )

    def _log(self, figures: Mapping[str, float]) -> None:
        if self.logger:
            self.logger.log_metrics(self.state.step, dict(figures))
        if self.tracker:
            self.tracker.log(self.state.step, figures)

    def _save(self) -> None:
        """The newest checkpoint and the best one stay; older ones go."""
        if not self.is_main:
            return
        scaler = self.accelerator.scaler
        scaled = {} if scaler is None else {"scaler": scaler.state_dict()}
        stored = {**asdict(self.state), **self.problem.hashes, **scaled, "problem": self.problem.state()}
        save_checkpoint(step_folder(self.checkpoints, self.state.step), self.problem.network, self.raw_optimizer, stored)
        prune_checkpoints(self.checkpoints, {self.state.step, self.state.best_step})

    def _restore(self) -> LoopState:
        """Load the newest complete checkpoint, which the first process reads, in all of them; step 0 when there is none."""
        steps = from_first(lambda: complete_steps(self.checkpoints))
        if not steps:
            return LoopState()
        folder = step_folder(self.checkpoints, steps[-1])
        stored = from_first(lambda: read_state(folder))
        check_origin(folder, stored, self.problem.hashes)
        load_checkpoint(folder, self.problem.network, self.raw_optimizer)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(stored["scaler"])
        if self.is_main:
            cut_metrics(self.folder / "metrics.jsonl", stored["step"])
        self.problem.restore(stored["problem"])
        return LoopState(stored["step"], stored["best_step"], stored["best"], stored["seconds"])

    def _finish(self, references: dict[str, float]) -> TrainingResult:
        """Keep the best checkpoint as the run's result; every process ends with its weights."""
        self.accelerator.wait_for_everyone()
        state, problem, result = self.state, self.problem, self.folder / self.problem.kind
        load_best(step_folder(self.checkpoints, state.best_step), problem.network)
        figures = {**(state.best or {}), **references}
        if self.logger:
            write_json(self.folder / "training.json", {"steps": state.step, "best_step": state.best_step, **figures})
            problem.network.save_pretrained(result)
        return TrainingResult(self.folder, result, state.step, state.best_step, figures, state.seconds)

    def close(self, failed: BaseException | None = None) -> None:
        """Close the log and the tracker's entry, whatever happened.

        The wrapped network goes before the process group that it holds: were it the last to hold it, the group's threads
        would be joined under the interpreter's lock, for which they may wait, and the process would never end.
        """
        if self.monitor:
            self.monitor.stop()
        if self.logger and failed is not None:
            self.logger.fail(failed)
        elif self.logger:
            after = look_up(self.config.seed, self.config.model.device, again=True)
            self.logger.log_details(points={**self.points, "after": after})
            self.logger.finalize({"best_step": self.state.best_step, **(self.state.best or {})})
        if self.tracker:
            self.tracker.finish()
        del self.model, self.optimizer
        self.accelerator.free_memory()
        self.accelerator.end_training()
