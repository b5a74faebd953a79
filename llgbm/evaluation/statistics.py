"""Standard errors, paired intervals and paired tests, guarded against constant data.

Tasks are the sampling unit: examples of one task share an adapter, so they are not independent. Training seeds are
replicates: average a task's scores over seeds before comparing tasks, and report the spread over seeds by `replicates`.
Letters: n tasks (or other paired units).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from llgbm.errors import InputError

RESAMPLES = 9999
EXACT_UP_TO = 12
"""Paired units up to which all 2^n sign flips are enumerated."""

Values = Sequence[int | float] | np.ndarray
Alternative = Literal["two-sided", "less", "greater"]


@dataclass(frozen=True)
class Comparison:
    """Method against another on the same units: mean difference, its 95% interval and the p-value of a paired test."""

    difference: float
    low: float
    high: float
    p_value: float
    n_units: int
    test: str
    """`sign-flip` over tasks, or `mcnemar` over the examples of a single task."""


def standard_error(values: Values) -> float | None:
    """Standard error of the mean; 0 for constant data, None for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    return 0.0 if _is_constant(values) else float(stats.sem(values))


def bootstrap_interval(values: Values, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean by the BCa bootstrap; for paired data give the differences. Constant data give their value twice.

    Raises:
        InputError: No values.

    Source:
        Efron 1987, doi:10.1080/01621459.1987.10478410. BCa is undefined for constant data and for some nearly
        constant ones; the percentile interval stands in there.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise InputError("no values to bootstrap; give at least one")
    if _is_constant(values):
        return float(values[0]), float(values[0])
    low = high = float("nan")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (values,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(seed)
            )
        low, high = (float(x) for x in result.confidence_interval)
        if np.isfinite((low, high)).all():
            break
    return low, high


def gain_recovered(method: Values, base: Values, teacher: Values) -> float | None:
    """(method - base) / (teacher - base) of the means; None when the teachers gain nothing."""
    gain = float(np.mean(teacher) - np.mean(base))
    return float(np.mean(method) - np.mean(base)) / gain if gain > 0 else None


def gain_recovered_interval(
    method: Values, base: Values, teacher: Values, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `gain_recovered`, resampling tasks; None when that is None or in over 1% of resamples."""
    columns = [np.asarray(x, dtype=float) for x in (method, base, teacher)]
    if gain_recovered(*columns) is None:
        return None
    picks = np.random.default_rng(seed).integers(len(columns[0]), size=(RESAMPLES, len(columns[0])))
    means = [column[picks].mean(1) for column in columns]
    gains = means[2] - means[1]
    defined = gains > 0
    if defined.mean() < 0.99:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile((means[0] - means[1])[defined] / gains[defined], [tail, 1 - tail])
    return float(low), float(high)


def sign_flip_test(differences: Values, alternative: Alternative = "two-sided", seed: int = 0) -> float:
    """p-value of the paired permutation test that the differences are symmetric around zero.

    Exact for up to EXACT_UP_TO differences, else from RESAMPLES random flips, the observed one counted in; 1 when all
    differences are zero.

    Raises:
        InputError: No differences.
    """
    differences = np.asarray(differences, dtype=float)
    if not len(differences):
        raise InputError("no paired differences to test; give at least one")
    n = len(differences)
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), size=(RESAMPLES, n))
        extra = 1
    sums, observed = signs @ differences, differences.sum()
    slack = 1e-9 * np.abs(differences).sum()  # equal sums can differ in their last bits
    at_least, at_most = ((sums >= observed - slack).sum() + extra, (sums <= observed + slack).sum() + extra)
    as_far = (np.abs(sums) >= abs(observed) - slack).sum() + extra
    return float({"greater": at_least, "less": at_most, "two-sided": as_far}[alternative] / (len(signs) + extra))


def mcnemar_test(one: Sequence[bool] | np.ndarray, other: Sequence[bool] | np.ndarray, alternative: Alternative = "two-sided") -> float:
    """Exact McNemar p-value for two methods on the same examples; `greater` asks whether `one` is right more often.

    Raises:
        InputError: The two have different lengths.
    """
    one, other = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    if one.shape != other.shape:
        raise InputError(f"{len(one)} and {len(other)} results are not paired; compare methods on the same examples")
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    if not only_one + only_other:
        return 1.0
    return float(stats.binomtest(only_one, only_one + only_other, 0.5, alternative).pvalue)


def holm(p_values: Values) -> list[float]:
    """p-values adjusted for testing all of them, in the given order.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    result = np.empty_like(p)
    result[order] = adjusted
    return result.tolist()


def add_holm(rows: Sequence[dict[str, Any]]) -> None:
    """Give each test its `p_holm`: its `p_value` adjusted for all of these."""
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = adjusted


def compare(one: Sequence[Values], other: Sequence[Values], alternative: Alternative = "two-sided", seed: int = 0) -> Comparison:
    """Compare two methods on the same examples of the same tasks.

    Args:
        one: For each task, the score of each example (0 or 1 for exact match; means over seeds are fine too).
        other: The other method's, in the same order.
        alternative: `greater` asks whether `one` is better.
        seed: Of the resampling.

    Returns:
        The difference of the means over tasks (each task weighs the same). With several tasks, tasks are resampled and
        their differences flipped; with one task, its examples, and the test is McNemar's where scores are 0 and 1.

    Raises:
        InputError: The two do not pair up.
    """
    if not len(one) or [len(x) for x in one] != [len(x) for x in other]:
        raise InputError("the two methods were not scored on the same examples; evaluate both on the same tasks and splits")
    if len(one) > 1:
        differences = np.array([np.mean(x) - np.mean(y) for x, y in zip(one, other, strict=True)])
        p_value, test = sign_flip_test(differences, alternative, seed), "sign-flip"
    else:
        x, y = (np.asarray(v[0], dtype=float) for v in (one, other))
        differences = x - y
        binary = np.isin(np.concatenate([x, y]), (0, 1)).all()
        p_value = mcnemar_test(x > 0, y > 0, alternative) if binary else sign_flip_test(differences, alternative, seed)
        test = "mcnemar" if binary else "sign-flip"
    low, high = bootstrap_interval(differences, seed=seed)
    return Comparison(float(differences.mean()), low, high, p_value, len(differences), test)


@dataclass(frozen=True)
class Replicates:
    """Mean over training seeds and its 95% interval."""

    mean: float
    stderr: float | None
    low: float | None
    high: float | None
    n_seeds: int


def replicates(values: Values, confidence: float = 0.95) -> Replicates:
    """Summarize one figure per seed by Student's t; without spread the interval is the value, with one seed there is none.

    Raises:
        InputError: No values.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise InputError("no seeds to summarize; give at least one value")
    mean, stderr = float(values.mean()), standard_error(values)
    if stderr is None:
        return Replicates(mean, None, None, None, 1)
    half = stderr * float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1))
    return Replicates(mean, stderr, mean - half, mean + half, len(values))


def _is_constant(values: np.ndarray) -> bool:
    """Whether all values have the same bits; a variance of equal floats need not be zero."""
    return bool((values == values[0]).all())
