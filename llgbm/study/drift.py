"""How far training moves a model's hidden states from the base's: 1 - CKA and 1 - cosine, per layer, over training, and by method.

The drift of a run is that at its end, averaged over the layers' outputs. The embeddings are shown but not counted: LoRA leaves them alone
by construction, so they would decide a comparison with full fine-tuning beforehand. Layers that tell no two probes apart in any run of a
task are left out of all its runs. Letters: S seeds, P probes, L layers.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llgbm.checking import RECORD, Integer, List, Number, read_as
from llgbm.errors import InputError, first_line
from llgbm.files import read_json, write_json
from llgbm.progress import ProgressCallback
from llgbm.study.cka import layer_cka, probe_values
from llgbm.study.config import Method
from llgbm.study.folder import Study
from llgbm.study.statistics import of_seeds, of_units, ratio_interval, seeds_needed

DRIFT_FILE = "drift.json"
Measure = Literal["cka", "cosine"]
ROUNDING = 1e-6
"""Drift up to this is what float32 states leave where nothing moved."""
MEASURES: tuple[Measure, ...] = ("cka", "cosine")


@dataclass(frozen=True, config=RECORD)
class RunDrift:
    """One run's way from the base. Likeness is 1 where nothing moved."""

    method: Method
    seed: Integer
    steps: List[Integer]
    """At which states were recorded; the first is the untrained model."""
    cka: List[List[Number | None]]
    """Per step and hidden state (embeddings first); null where probes are all alike."""
    cosine: List[List[Number]]
    """Mean over probes of the mean over their tokens."""
    drift: dict[Measure, Number]
    """1 - likeness at the last step, mean over the counted layers."""
    probe_drift: dict[Measure, List[Number]]
    """What each probe brings to it; the mean is the drift."""


@dataclass(frozen=True, config=RECORD)
class Reduction:
    """LoRA's drift against full fine-tuning's: 1 - lora / full."""

    lora: Number
    full: Number
    reduction: Number | None
    """None where full fine-tuning did not move anything."""
    low: Number | None
    """95% bootstrap interval: over probes, and over seeds too where there are enough of them."""
    high: Number | None
    over_seeds: bool
    """Whether seeds were resampled; else the interval speaks of these trained models."""
    p_probes: Number | None
    """That LoRA drifts no less, for these trained models: paired by probe."""
    p_seeds: Number | None
    """The same for training anew: swapping the methods within seeds, every way; None with too few seeds."""
    n_probes: Integer
    n_seeds: Integer


@dataclass(frozen=True, config=RECORD)
class TaskDrift:
    """One task's runs."""

    task: str
    n_layers: Integer
    """Hidden states less the embeddings."""
    left_out: List[Integer]
    """Layers that do not count, since in some run they tell no two probes apart."""
    runs: List[RunDrift]
    reduction: dict[Measure, Reduction]
    """Empty while a method or a common seed is missing."""


@dataclass(frozen=True, config=RECORD)
class DriftFindings:
    """What `drift.json` holds."""

    tasks: List[TaskDrift]
    reduction: dict[Measure, Reduction]
    """Over all tasks that have both methods, over the seeds they share."""

    def rows(self) -> list[dict[str, Any]]:
        """One per task and measure, then one over all tasks, for a table."""
        named = [*((task.task, task.reduction) for task in self.tasks), ("all tasks", self.reduction)]
        return [
            {"task": task, "measure": measure, **{key: _rounded(value) for key, value in dataclasses.asdict(found).items()}}
            for task, of_task in named
            for measure, found in of_task.items()
        ]


def run_drift(study: Study, progress: ProgressCallback | None = None) -> DriftFindings:
    """Measure every finished run against its own start and write `drift.json`. Takes seconds, so it is done afresh.

    Raises:
        InputError: No run is finished, or a file of states is missing, damaged, or of other probes than its run's first.
    """
    finished = [run for run in study.runs() if study.result(*run) is not None]
    if not finished:
        raise InputError(f"{study.folder}: no run is finished; run 'llgbm study run' first")
    measured: dict[str, list[_Measured]] = {}
    for done, (task, method, seed) in enumerate(finished, 1):
        measured.setdefault(task, []).append(_measure(method, seed, study.states(task, method, seed), study.run_folder(task, method, seed)))
        if progress:
            progress(done, len(finished))
    tasks = [_task_drift(task, runs, study.config.hypotheses.alpha) for task, runs in measured.items()]
    findings = DriftFindings(tasks, _reductions(tasks, study.config.hypotheses.alpha))
    write_json(study.path(DRIFT_FILE), dataclasses.asdict(findings))
    return findings


def read_drift(study: Study) -> DriftFindings | None:
    """What `run_drift` found; None where it has not run."""
    path = study.path(DRIFT_FILE)
    return read_as(DriftFindings, read_json(path), str(path)) if path.exists() else None


def drift_cells(tasks: Sequence[TaskDrift], measure: Measure) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per task with both methods, what each probe brings to the drift [S, P], of lora and of full, over the seeds all these share."""
    both = [{method: {run.seed: run for run in task.runs if run.method == method} for method in ("lora", "full")} for task in tasks]
    both = [runs for runs in both if runs["lora"].keys() & runs["full"].keys()]
    seeds = sorted(set.intersection(*(runs["lora"].keys() & runs["full"].keys() for runs in both))) if both else []
    if not seeds:
        return [], []
    lora, full = ([np.array([runs[method][seed].probe_drift[measure] for seed in seeds]) for runs in both] for method in ("lora", "full"))
    return lora, full


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A run before it is known which layers count."""

    method: Method
    seed: int
    steps: list[int]
    cka: Float[Tensor, "steps L"]
    cosine: Float[Tensor, "steps L"]
    probes: dict[Measure, Float[Tensor, "L P"]]
    """Likeness at the last step by probe."""

    @property
    def degenerate(self) -> set[int]:
        """Layers without a CKA at the end."""
        return set(self.probes["cka"].isnan().any(1).nonzero()[:, 0].tolist())

    def drift(self, counted: Sequence[int]) -> RunDrift:
        probe_drift: dict[Measure, Tensor] = {name: (1 - values[list(counted)]).mean(0) for name, values in self.probes.items()}
        return RunDrift(
            self.method,
            self.seed,
            self.steps,
            [[None if np.isnan(x) else x for x in row] for row in self.cka.tolist()],
            self.cosine.tolist(),
            {name: float(values.mean()) for name, values in probe_drift.items()},
            {name: values.tolist() for name, values in probe_drift.items()},
        )


def _measure(method: Method, seed: int, states: dict[int, Path], folder: Path) -> _Measured:
    if len(states) < 2:
        raise InputError(
            f"{folder}: has states of {len(states)} steps, the first and the last at least are needed; remove it and run it again"
        )
    steps = list(states)
    base, _, probes = read_states(states[steps[0]])
    cka, cosine, last = [], [], base
    for step in steps:
        last, likeness, of_probes = read_states(states[step])
        if of_probes != probes or last.shape != base.shape:
            raise InputError(
                f"{states[step]}: holds other probes or layers than step {steps[0]} of its run; remove {folder} and run it again"
            )
        cka.append(layer_cka(base, last))
        cosine.append(likeness.double())
    at_end: dict[Measure, Tensor] = {"cka": probe_values(base, last), "cosine": cosine[-1]}
    return _Measured(method, seed, steps, torch.stack(cka), torch.stack(cosine).mean(2), at_end)


def read_states(path: Path) -> tuple[Float[Tensor, "L P D"], Float[Tensor, "L P"], str]:
    """Pooled states and cosines of one step (embeddings and layers, so L is one more), and which probes they are of.

    Raises:
        InputError: The file is damaged, or not what a run records.
    """
    try:
        with safe_open(path, "pt") as file:
            pooled, cosine = file.get_tensor("pooled"), file.get_tensor("cosine")
            probes = (file.metadata() or {}).get("probes", "")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: states cannot be read ({first_line(error)}); remove the run's folder and run it again") from error
    if pooled.ndim != 3 or cosine.shape != pooled.shape[:2] or not bool(torch.isfinite(cosine).all()):
        found = f"pooled {tuple(pooled.shape)} and cosine {tuple(cosine.shape)}"
        raise InputError(f"{path}: {found}, expected layers by probes by width and finite layers by probes; run it again")
    return pooled, cosine, probes


def _task_drift(task: str, runs: Sequence[_Measured], alpha: float) -> TaskDrift:
    shapes = {(run.cka.shape[1], run.cosine.shape[1], run.probes["cka"].shape[1]) for run in runs}
    if len(shapes) > 1:
        raise InputError(
            f"task {task}: its runs recorded other layers or numbers of probes; remove those of another config and run them again"
        )
    n_layers = runs[0].cka.shape[1] - 1
    left_out = sorted(set.union(*(run.degenerate for run in runs)) - {0})
    counted = [layer for layer in range(1, n_layers + 1) if layer not in left_out]
    if not counted:
        raise InputError(f"task {task}: no layer tells any two probes apart; give other probes, or train with a smaller learning rate")
    found = TaskDrift(task, n_layers, left_out, [run.drift(counted) for run in runs], {})
    return dataclasses.replace(found, reduction=_reductions([found], alpha))


def _reductions(tasks: Sequence[TaskDrift], alpha: float) -> dict[Measure, Reduction]:
    return {name: found for name in MEASURES if (found := _reduction(tasks, name, alpha))}


def _reduction(tasks: Sequence[TaskDrift], measure: Measure, alpha: float) -> Reduction | None:
    """Of all tasks together; None while a method is missing."""
    lora, full = drift_cells(tasks, measure)
    if not lora:
        return None
    means = [float(np.mean([cell.mean() for cell in cells])) for cells in (lora, full)]
    over_seeds = len(lora[0]) >= seeds_needed(alpha)
    moved = means[1] > ROUNDING
    ratio = ratio_interval(lora, full, over_seeds) if moved else None
    less = [of_full - of_lora for of_lora, of_full in zip(lora, full, strict=True)]
    low, high = (1 - ratio[1], 1 - ratio[0]) if ratio else (None, None)
    return Reduction(
        means[0],
        means[1],
        1 - means[0] / means[1] if moved else None,
        low,
        high,
        over_seeds,
        of_units(less, "probe", 0.0, alpha).p_value,
        of_seeds(less, 0.0, alpha).p_value,
        sum(cell.shape[1] for cell in lora),
        len(lora[0]),
    )


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
