"""What the study claims, as pairs to test: LoRA scores as well (H1), drifts less (H2), and costs little to serve unmerged (H3).

Scores and drifts are paired by example or probe within seeds, times by round.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llgbm.errors import InputError
from llgbm.percent import percent
from llgbm.study.config import HypothesesConfig, Method
from llgbm.study.deployment import read_deployment
from llgbm.study.drift import drift_cells, read_drift
from llgbm.study.folder import RunResult, Study
from llgbm.study.sanity import read_checks
from llgbm.study.serving_times import MERGED
from llgbm.study.statistics import Cells, of_units

Scores = dict[str, dict[Method, np.ndarray]]
"""Task -> method -> scores [S, N]."""
Meanings = Mapping[str, dict[str, Any]]
"""Task -> the fields of `Pairs` that say whether a verdict on it means anything."""
UNCHECKED = "not set beside untrained answers; run 'llgbm study check'"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What a claim is tested on: cells of both sides, of one task or of all."""

    name: str
    task: str | None
    claim: str
    unit: str
    hoped: str
    lora: Cells
    other: Cells
    margin: float
    """What LoRA may fall short by (H1), has to stay below by (H2), or may exceed (H3), as a share of the other."""
    more_is_better: bool = False
    logarithmic: bool = False
    """Cells are logarithms of times."""
    caveat: str = ""
    """What a reader has to know before the verdict."""
    decidable: bool = True
    """False where neither verdict would mean anything."""

    @property
    def has_seeds(self) -> bool:
        """Whether there are trainings to do anew."""
        return not self.logarithmic

    @property
    def excess(self) -> Cells:
        """What is left of each difference beyond the margin; the claim is that its mean is above zero."""
        pairs = zip(self.lora, self.other, strict=True)
        if self.logarithmic:
            return [np.log1p(self.margin) + other - lora for lora, other in pairs]
        return [(lora - (1 - self.margin) * other) * (1 if self.more_is_better else -1) for lora, other in pairs]

    @property
    def hoped_excess(self) -> float:
        """Its mean if things are as hoped."""
        return float(np.log1p(self.margin)) if self.logarithmic else self.margin * abs(mean(self.other))


def mean(cells: Cells) -> float:
    """Over tasks, each of which weighs the same."""
    return float(np.mean([cell.mean() for cell in cells]))


def claims_of(study: Study) -> dict[str, list[Pairs] | str]:
    """Claim -> its pairs over all tasks, then of each task; or which step it needs.

    Raises:
        InputError: Two runs of a task were scored on different examples.
    """
    config, cells = study.config.hypotheses, score_cells(study)
    meanings = _meanings(study, cells, config.alpha)
    return {"H1": _accuracy(cells, meanings, config), "H2": _drift(study, meanings, config), "H3": _overhead(study, config)}


def score_cells(study: Study) -> Scores:
    """Task -> method -> scores [S, N] over the seeds that all tasks and both methods have finished; tasks without a pair are left out.

    Raises:
        InputError: Two runs of a task were scored on different examples.
    """
    results: dict[str, dict[int, dict[Method, RunResult]]] = {}
    for task, method, seed in study.runs():
        if (found := study.result(task, method, seed)) is not None:
            results.setdefault(task, {}).setdefault(seed, {})[method] = found
    pairs = {task: {seed: both for seed, both in of_task.items() if len(both) == 2} for task, of_task in results.items()}
    pairs = {task: of_task for task, of_task in pairs.items() if of_task}
    seeds = sorted(set.intersection(*(set(of_task) for of_task in pairs.values()))) if pairs else []
    if not seeds:
        return {}
    for task, of_task in pairs.items():
        _check_examples(task, [result for seed in seeds for result in of_task[seed].values()])
    methods: tuple[Method, ...] = ("full", "lora")
    return {
        task: {method: np.array([of_task[seed][method].scores for seed in seeds]) for method in methods} for task, of_task in pairs.items()
    }


def _check_examples(task: str, results: Sequence[RunResult]) -> None:
    for one in results:
        if one.example_ids != results[0].example_ids:
            raise InputError(
                f"task {task}: {one.method}, seed {one.seed} was scored on other examples than {results[0].method}, "
                f"seed {results[0].seed}; remove the older of the two runs and run it again"
            )


def _accuracy(cells: Scores, meanings: Meanings, config: HypothesesConfig) -> list[Pairs] | str:
    """H1, over the tasks that full fine-tuning learned and of each task; or which step it needs."""
    if not cells:
        return "needs a finished run of each method with the same seed; run 'llgbm study run'"
    margin = config.accuracy_margin
    claim = f"LoRA keeps at least {percent(1 - margin)} of full fine-tuning's score"
    lora, full = ([of_task[method] for of_task in cells.values()] for method in ("lora", "full"))
    whole = Pairs("H1", None, claim, "example", "LoRA scores as full fine-tuning does", lora, full, margin, more_is_better=True)
    return _of_learned(whole, list(cells), meanings)


def _of_learned(whole: Pairs, tasks: Sequence[str], meanings: Meanings) -> list[Pairs]:
    """A claim over the tasks that full fine-tuning learned, and of each task.

    Where it is not shown to beat answers that need no training there is nothing to keep, and neither to be as good nor to move as
    little says anything: trials of non-inferiority call it assay sensitivity.
    """
    each = [
        dataclasses.replace(whole, task=task, lora=[lora], other=[other], **meanings.get(task, {"caveat": UNCHECKED}))
        for task, lora, other in zip(tasks, whole.lora, whole.other, strict=True)
    ]
    learned = [pairs for pairs in each if pairs.decidable]
    if not learned:
        caveat = "full fine-tuning is not shown to beat untrained answers on any task"
        return [dataclasses.replace(whole, caveat=caveat, decidable=False), *each]
    left_out = [str(pairs.task) for pairs in each if not pairs.decidable]
    caveat = f"without {', '.join(left_out)}, where full fine-tuning is not shown to beat untrained answers" if left_out else ""
    if any(pairs.caveat == UNCHECKED for pairs in each):
        caveat = UNCHECKED
    return [dataclasses.replace(whole, lora=[p.lora[0] for p in learned], other=[p.other[0] for p in learned], caveat=caveat), *each]


def _meanings(study: Study, cells: Scores, alpha: float) -> Meanings:
    """Task -> what its full fine-tuning, set beside untrained answers, lets a claim mean; tasks without a pair of runs are left out."""
    baselines = read_checks(study).baselines
    return {
        task: _meaning([of_task["full"]], _best_untrained(study, task, baselines.get(task, {})), alpha) for task, of_task in cells.items()
    }


def _best_untrained(study: Study, task: str, baselines: Mapping[str, Mapping[str, float]]) -> tuple[str, float] | None:
    """The best of a task's baselines and its score on the test examples; None before 'llgbm study check' has run."""
    metric = next(found.metric for run in study.runs() if run[0] == task and (found := study.result(*run)))
    scores = {name: metrics[metric] for name, metrics in baselines.items() if metric in metrics}
    return max(scores.items(), key=lambda entry: entry[1]) if scores else None


def _meaning(full: Cells, untrained: tuple[str, float] | None, alpha: float) -> dict[str, Any]:
    """Whether full fine-tuning is above the best untrained answers, at a level, by test example."""
    if untrained is None:
        return {"caveat": UNCHECKED}
    name, score = untrained
    p = of_units([cell - score for cell in full], "example", 0.0, alpha).p_value
    if p is not None and p <= alpha:
        return {}
    caveat = f"full fine-tuning ({percent(mean(full))}) is not shown to beat untrained answers ({name}, {percent(score)})"
    return {"caveat": caveat, "decidable": False}


def _drift(study: Study, meanings: Meanings, config: HypothesesConfig) -> list[Pairs] | str:
    """H2, by CKA, over the tasks that full fine-tuning learned and of each task; or which step it needs."""
    found = read_drift(study)
    tasks = [task for task in found.tasks if task.reduction] if found else []
    lora, full = drift_cells(tasks, "cka")
    if not lora:
        return "needs the drift of a run of each method with the same seed; run 'llgbm study drift'"
    margin = config.drift_reduction
    claim = f"LoRA drifts at least {percent(margin)} less than full fine-tuning"
    whole = Pairs("H2", None, claim, "probe", f"LoRA drifts {percent(2 * margin)} less", lora, full, margin)
    return _of_learned(whole, [task.task for task in tasks], meanings)


def _overhead(study: Study, config: HypothesesConfig) -> list[Pairs] | str:
    """H3, batch sizes as strata."""
    found = read_deployment(study)
    if found is None:
        return "needs times of serving; run 'llgbm study deploy'"
    model = next((one for one in found.models if not one.refused), None)
    if model is None:
        return "needs a model that can be served; set deployment.models, and run 'llgbm study deploy'"
    name, count = config.serving_backend, config.serving_adapters
    way = f"{count} adapter{'s' * (count > 1)}"
    times = {(one.way, one.batch_size): one.seconds for backend in model.backends if backend.backend == name for one in backend.servings}
    sizes = [size for of_way, size in times if of_way == way]
    if not sizes:
        return f"needs times of {way} by {name} on {model.model}; see deployment.backends and deployment.adapters, and 'llgbm study deploy'"
    lora, merged = ([np.log([times[kind, size]]) for size in sizes] for kind in (way, MERGED))
    claim = f"{way} unmerged ({name}) take{'s' * (count == 1)} at most {percent(config.overhead)} longer than a merged model"
    return [Pairs("H3", None, claim, "round", "it takes no longer at all", lora, merged, config.overhead, logarithmic=True)]
