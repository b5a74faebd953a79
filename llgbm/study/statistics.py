"""Is a mean above zero? One-sided, paired tests at two levels: about these trained models, and about training anew.

What is tested is what is left of a difference once its margin is taken off, so a claim holds where the mean is above zero. Cells: one
array of S seeds by N units (test examples, probes) for each task; tasks weigh the same. Seeds are the independent units of a claim about
training anew; units alone speak of the models at hand.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from llgbm.errors import InputError
from llgbm.evaluation.clusters import RESAMPLES
from llgbm.evaluation.statistics import expanded_confidence, holm, percentiles, sign_flip_test, smallest_p

CONFIDENCE = 0.95
WANTED_POWER = 0.8
SEEDS = "seed"

Cells = Sequence[np.ndarray]


@dataclass(frozen=True)
class Tested:
    """One claim, tested on one kind of unit."""

    unit: str
    """`example`, `probe`, `round` (of these models), or `seed` (of training anew)."""
    n_units: int
    excess: float
    """Mean beyond the margin; the claim is that it is above zero."""
    low: float
    """Lower end of its 95% bootstrap interval."""
    high: float
    p_value: float | None
    """That the mean is not above zero; None when there are too few units to reach the level."""
    p_opposite: float | None
    """That it is not below zero."""
    effect: float | None
    """Mean in units of its own spread over units (Cohen's d of pairs, with Hedges' correction); None without spread."""
    power: float | None
    """Chance of a p-value within the level if the truth is as hoped: 0 with too few units; None without spread."""
    detectable: float | None
    """Smallest true excess that would be found with 80% power; None with too few units or without spread."""


def of_units(cells: Cells, unit: str, hoped: float, alpha: float) -> Tested:
    """A claim about these trained models: Student's paired test over units, each averaged over seeds, tasks as strata.

    Args:
        cells: For each task [S, N], with the margin taken off.
        unit: What units are called.
        hoped: The excess if things are as hoped, for the power.
        alpha: Level of the test.

    Raises:
        InputError: No cells, or a task without units or seeds.

    Source:
        Welch-Satterthwaite degrees of freedom where there are several tasks. Constant data are tested by flipping signs.
    """
    _check(cells)
    columns = [cell.mean(0) for cell in cells]
    n, mean = sum(map(len, columns)), float(np.mean([column.mean() for column in columns]))
    low, high = interval(cells, seeds_too=False)
    shares = [column.var(ddof=1) / len(column) / len(columns) ** 2 if len(column) > 1 else 0.0 for column in columns]
    error = float(np.sqrt(sum(shares)))
    if _no_spread(error, columns):
        return _constant(unit, mean, low, high, np.concatenate(columns), alpha)
    parts = [share**2 / (len(column) - 1) for share, column in zip(shares, columns, strict=True) if len(column) > 1]
    freedom = error**4 / sum(parts)
    t = mean / error
    sides = float(stats.t.sf(t, freedom)), float(stats.t.cdf(t, freedom))
    return Tested(unit, n, mean, low, high, *sides, *_sizes(mean, error * np.sqrt(n), n, hoped, alpha))


def of_seeds(cells: Cells, hoped: float, alpha: float) -> Tested:
    """A claim about training anew: signs of whole seeds are flipped, each averaged over tasks and units; too few give no p-value.

    The interval resamples seeds, and units within them. Power is that of Student's test, which flipping signs comes near.

    Raises:
        InputError: As `of_units`, or tasks differ in their seeds.
    """
    _check(cells)
    if len({len(cell) for cell in cells}) > 1:
        raise InputError(f"tasks have {', '.join(str(len(cell)) for cell in cells)} seeds; compare tasks over the same seeds")
    seeds = np.mean([cell.mean(1) for cell in cells], axis=0)
    mean, n = float(seeds.mean()), len(seeds)
    low, high = interval(cells, seeds_too=True)
    enough = smallest_p(n, "greater") <= alpha
    sides = (sign_flip_test(seeds, "greater"), sign_flip_test(seeds, "less")) if enough else (None, None)
    spread = float(seeds.std(ddof=1)) if n > 1 else 0.0
    if n < 2 or _no_spread(spread, [seeds]):
        return Tested(SEEDS, n, mean, low, high, *sides, None, None, None)
    effect, power, detectable = _sizes(mean, spread, n, hoped, alpha)
    return Tested(SEEDS, n, mean, low, high, *sides, effect, *((power, detectable) if enough else (0.0, None)))


def seeds_needed(alpha: float) -> int:
    """Fewest seeds with which flipping signs can reach the level."""
    return next(n for n in range(1, 64) if smallest_p(n, "greater") <= alpha)


def interval(cells: Cells, seeds_too: bool) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean over tasks; see `resampled`."""
    return _percentiles(resampled(cells, seeds_too), cells, seeds_too)


def ratio_interval(above: Cells, below: Cells, seeds_too: bool) -> tuple[float, float] | None:
    """The same of mean(above) / mean(below), paired; None where the lower mean is not above zero in over 1% of the resamples."""
    means = resampled(above, seeds_too), resampled(below, seeds_too)
    defined = means[1] > 0
    if defined.mean() < 0.99:
        return None
    return _percentiles(means[0][defined] / means[1][defined], above, seeds_too)


def resampled(cells: Cells, seeds_too: bool, seed: int = 0) -> Float[np.ndarray, " R"]:
    """Means over tasks of resamples: units drawn in each task, the same for all its seeds, and seeds drawn, the same for all tasks.

    Cells of the same shapes get the same draws, so differences and ratios of two results are those of pairs.
    """
    of_seeds, of_tasks = _draws(tuple(cell.shape for cell in cells), seeds_too, seed)
    means = np.zeros(RESAMPLES)
    for cell, of_units in zip(cells, of_tasks, strict=True):
        means += ((of_seeds @ cell) * of_units).sum(1) / cell.size
    return means / len(cells)


@lru_cache(maxsize=4)
def _draws(shapes: tuple[tuple[int, int], ...], seeds_too: bool, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """How often each seed [R, S], and each unit of each task [R, N], counts in each resample; made once for results of one shape."""
    rng = np.random.default_rng(seed)

    def drawn(n: int) -> np.ndarray:
        return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.int16)

    n_seeds = shapes[0][0]
    return drawn(n_seeds) if seeds_too else np.ones((RESAMPLES, n_seeds)), [drawn(n_units) for _, n_units in shapes]


def adjusted(p_values: Sequence[float | None], method: Literal["holm", "bonferroni"]) -> list[float | None]:
    """p-values adjusted for testing all of them; those that are None do not count.

    By hand, since statsmodels' `multipletests` collects garbage at every call, which takes half a second.
    """
    tested = [p for p in p_values if p is not None]
    found = iter(holm(tested) if method == "holm" else [min(1.0, len(tested) * p) for p in tested])
    return [None if p is None else next(found) for p in p_values]


def _sizes(mean: float, spread: float, n: int, hoped: float, alpha: float) -> tuple[float, float | None, float | None]:
    """Effect, power and detectable excess of n units with that spread."""
    hedges = 1 - 3 / (4 * (n - 1) - 1) if n > 2 else 1.0
    solver = _power().TTestPower()
    power = float(solver.power(hoped / spread, n, alpha, alternative="larger")) if hoped > 0 else None
    smallest = float(solver.solve_power(None, n, alpha, WANTED_POWER, alternative="larger")) * spread if n > 2 else None
    return hedges * mean / spread, power, smallest


def _constant(unit: str, mean: float, low: float, high: float, values: np.ndarray, alpha: float) -> Tested:
    enough = smallest_p(len(values), "greater") <= alpha
    sides = (sign_flip_test(values, "greater"), sign_flip_test(values, "less")) if enough else (None, None)
    return Tested(unit, len(values), mean, low, high, *sides, None, None, None)


def _no_spread(spread: float, columns: Sequence[np.ndarray]) -> bool:
    """Whether what is there of spread is the rounding of equal numbers."""
    return spread <= 1e-12 * max(float(np.abs(column).max()) for column in columns)


def _percentiles(means: np.ndarray, cells: Cells, seeds_too: bool) -> tuple[float, float]:
    n = min(len(cells[0]) if seeds_too else cell.shape[1] for cell in cells)
    return percentiles(means, expanded_confidence(CONFIDENCE, n))


def _check(cells: Cells) -> None:
    if not cells or any(cell.ndim != 2 or not cell.size for cell in cells):
        raise InputError(f"{len(cells)} tasks with results {[cell.shape for cell in cells]}; give seeds by units for at least one task")


def _power() -> Any:
    try:
        return importlib.import_module("statsmodels.stats.power")
    except ModuleNotFoundError as error:
        raise InputError("the power of a test needs statsmodels, which is not installed; pip install 'llgbm[study]'") from error
