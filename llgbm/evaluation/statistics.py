"""Standard errors, paired intervals and paired tests, guarded against constant data.

Tasks are the sampling unit: examples of one task share an adapter, so they are not independent. Tasks that share a level of an
attribute are not independent either, so intervals and tests keep them together (`clusters`). Training seeds are replicates: average
a task's scores over seeds before comparing tasks, and report the spread over seeds by `replicates`. Letters: n tasks (or other
paired units).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from llgbm.errors import InputError
from llgbm.evaluation.clusters import RESAMPLES, Clusters, Grouping, crossed, groupings, intraclass_correlation, resampling_weights

EXACT_UP_TO = 12
"""Units or clusters up to which all 2^n sign flips are enumerated."""
SIGNIFICANT = 0.05

Values = Sequence[int | float] | np.ndarray
Alternative = Literal["two-sided", "less", "greater"]


@dataclass(frozen=True)
class Clustered:
    """What one attribute does to a comparison."""

    levels: int
    icc: float
    """How much alike the differences of tasks that share a level are (intraclass correlation)."""
    p_value: float | None
    """Of flipping the tasks of a level together; None when it has too few levels for a p-value of 0.05, and is held fixed."""


@dataclass(frozen=True)
class Comparison:
    """Method against another on the same units: mean difference, its 95% interval and the p-value of a paired test."""

    difference: float
    low: float
    high: float
    p_value: float | None
    """The largest of the attributes' p-values; None when there are too few units or clusters to reach 0.05."""
    n_units: int
    unit: str
    """`task`, or `example` of a single task."""
    test: str
    """`sign-flip`, or `mcnemar` over the examples of a single task."""
    clusters: dict[str, Clustered]
    """By attribute; empty when units share none."""


def paired_by(row: Mapping[str, Any]) -> str:
    """In words: what the numbers of a saved `Comparison` speak of."""
    if row["unit"] == "example":
        return f"the {row['n_units']} examples of one task"
    text = f"{row['n_units']} {row['unit']}s"
    enough = {name: one for name, one in row["clusters"].items() if one["p_value"] is not None}
    few = {name: one for name, one in row["clusters"].items() if name not in enough}
    if row["clusters"]:
        text += ", clustered by " + _levels(enough or few)
    if enough and few:
        text += f"; {_levels(few)} held fixed"
    return text


def paired_by_all(rows: Iterable[Mapping[str, Any]]) -> str:
    """The same for several, each once."""
    return " or ".join(dict.fromkeys(map(paired_by, rows)))


def p_text(p_value: float | None) -> str:
    """Two digits, or that there are too few units to tell."""
    return "too few to tell" if p_value is None else f"{p_value:.2g}"


def smallest_p(n: int, alternative: Alternative = "two-sided") -> float:
    """What flipping the signs of n units or clusters can reach at best."""
    return (2 if alternative == "two-sided" else 1) / 2**n


def standard_error(values: Values, clusters: Clusters | None = None) -> float | None:
    """Standard error of the mean, with clusters that of its resamples; 0 for constant data, None for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    if _is_constant(values):
        return 0.0
    groups = _resampled(values, groupings(clusters, len(values)))
    return float(_resampled_means(values, groups, 0).std(ddof=1)) if groups else float(stats.sem(values))


def bootstrap_interval(values: Values, confidence: float = 0.95, seed: int = 0, clusters: Clusters | None = None) -> tuple[float, float]:
    """Interval of the mean by the bootstrap; for paired data give the differences. Constant data give their value twice.

    Without clusters, and with one attribute, units or its levels are resampled and the interval is BCa; with several attributes
    their levels are resampled independently (percentiles). Attributes with too few levels for a test are held fixed, unless all are.

    Raises:
        InputError: No values, or clusters that do not fit.

    Source:
        Efron 1987, doi:10.1080/01621459.1987.10478410; `resampling_weights` for several attributes; `expanded_confidence` for few. BCa is
        undefined for constant data and for some nearly constant ones; the percentile interval stands in there.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise InputError("no values to bootstrap; give at least one")
    if _is_constant(values):
        return float(values[0]), float(values[0])
    groups = _resampled(values, groupings(clusters, len(values)))
    if len(groups) > 1:
        return percentiles(_resampled_means(values, groups, seed), _expanded(confidence, groups, len(values)))
    group = groups[0] if groups else Grouping("unit", tuple(range(len(values))))
    return _bca(group.sums(values), group.sums(np.ones(len(values))), _expanded(confidence, groups, len(values)), seed)


def _bca(sums: np.ndarray, sizes: np.ndarray, confidence: float, seed: int) -> tuple[float, float]:
    """Of the mean over all units, resampling whole clusters."""
    if _is_constant(sums / sizes):
        return float(sums[0] / sizes[0]), float(sums[0] / sizes[0])
    low = high = float("nan")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (sums, sizes), lambda x, n, axis: x.sum(axis) / n.sum(axis), paired=True, confidence_level=confidence,
                n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(seed), vectorized=True,
            )  # fmt: skip
        low, high = (float(x) for x in result.confidence_interval)
        if np.isfinite((low, high)).all():
            break
    return low, high


def _resampled(values: np.ndarray, groups: Sequence[Grouping]) -> list[Grouping]:
    """The groupings an interval resamples."""
    enough = [group for group in groups if smallest_p(group.n_levels) <= SIGNIFICANT]
    return crossed(values, enough or groups)


def _resampled_means(values: np.ndarray, groups: Sequence[Grouping], seed: int) -> np.ndarray:
    weights = resampling_weights(groups, len(values), seed)
    return weights @ values / weights.sum(1)


def percentiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    """The middle of resampled means that holds so much of them."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def expanded_confidence(confidence: float, n: int) -> float:
    """The nominal confidence at which a bootstrap of n units or clusters covers the mean as often as Student's interval does.

    Source: Hesterberg 2015, arXiv:1411.5279, section 5.3: a bootstrap's spread is too small by sqrt((n - 1) / n), and normal.
    """
    if n < 2:
        return confidence
    reach = stats.t.ppf(0.5 + confidence / 2, n - 1) * np.sqrt(n / (n - 1))
    return min(float(1 - 2 * stats.norm.sf(reach)), 1 - 2 / RESAMPLES)


def _expanded(confidence: float, groups: Sequence[Grouping], n_units: int) -> float:
    """`expanded_confidence` for the attribute with the fewest levels."""
    return expanded_confidence(confidence, min((group.n_levels for group in groups), default=n_units))


def _levels(clusters: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} ({one['levels']})" for name, one in clusters.items())


def gain_recovered(method: Values, base: Values, teacher: Values) -> float | None:
    """(method - base) / (teacher - base) of the means; None when the teachers gain nothing."""
    gain = float(np.mean(teacher) - np.mean(base))
    return float(np.mean(method) - np.mean(base)) / gain if gain > 0 else None


def gain_recovered_interval(
    method: Values, base: Values, teacher: Values, confidence: float = 0.95, seed: int = 0, clusters: Clusters | None = None
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `gain_recovered`, resampling as `bootstrap_interval` does; None when that is None or in over 1% of
    resamples."""
    columns = [np.asarray(x, dtype=float) for x in (method, base, teacher)]
    if gain_recovered(*columns) is None:
        return None
    groups = _resampled(columns[0], groupings(clusters, len(columns[0])))
    means = [_resampled_means(column, groups, seed) for column in columns]
    gains = means[2] - means[1]
    defined = gains > 0
    if defined.mean() < 0.99:
        return None
    return percentiles((means[0] - means[1])[defined] / gains[defined], _expanded(confidence, groups, len(columns[0])))


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
    """Give each test its `p_holm`: its `p_value` adjusted for all of these; tests without a p-value do not count."""
    tested = [row for row in rows if row["p_value"] is not None]
    for row in rows:
        row["p_holm"] = None
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_holm"] = adjusted


def compare(
    one: Sequence[Values],
    other: Sequence[Values],
    alternative: Alternative = "two-sided",
    seed: int = 0,
    clusters: Clusters | None = None,
    unit: str = "task",
) -> Comparison:
    """Compare two methods on the same examples of the same tasks.

    Args:
        one: For each task, the score of each example (0 or 1 for exact match; means over seeds are fine too).
        other: The other method's, in the same order.
        alternative: `greater` asks whether `one` is better.
        seed: Of the resampling.
        clusters: For each attribute, each task's level of it.
        unit: What the tasks are called, if they are something else.

    Returns:
        The difference of the means over tasks (each task weighs the same). With several tasks, tasks are resampled and
        their differences flipped, those that share a level together; of several attributes the largest p-value counts. With one task,
        its examples are, and the test is McNemar's where scores are 0 and 1.

    Raises:
        InputError: The two do not pair up, or the clusters do not fit.
    """
    if not len(one) or [len(x) for x in one] != [len(x) for x in other]:
        raise InputError("the two methods were not scored on the same examples; evaluate both on the same tasks and splits")
    if len(one) == 1:
        return _compare_examples(np.asarray(one[0], dtype=float), np.asarray(other[0], dtype=float), alternative, seed)
    differences = np.array([np.mean(x) - np.mean(y) for x, y in zip(one, other, strict=True)])
    found = {group.name: _clustered(differences, group, alternative, seed) for group in groupings(clusters, len(one))}
    tested = [of_group.p_value for of_group in found.values() if of_group.p_value is not None]
    p_value = max(tested, default=None) if found else _flipped(differences, alternative, seed)
    low, high = bootstrap_interval(differences, seed=seed, clusters=clusters)
    return Comparison(float(differences.mean()), low, high, p_value, len(differences), unit, "sign-flip", found)


def _compare_examples(x: np.ndarray, y: np.ndarray, alternative: Alternative, seed: int) -> Comparison:
    """Within one task."""
    binary = bool(np.isin(np.concatenate([x, y]), (0, 1)).all())
    p_value = mcnemar_test(x > 0, y > 0, alternative) if binary else _flipped(x - y, alternative, seed)
    low, high = bootstrap_interval(x - y, seed=seed)
    return Comparison(float((x - y).mean()), low, high, p_value, len(x), "example", "mcnemar" if binary else "sign-flip", {})


def _clustered(differences: np.ndarray, group: Grouping, alternative: Alternative, seed: int) -> Clustered:
    icc = intraclass_correlation(differences, group)
    return Clustered(group.n_levels, icc, _flipped(group.sums(differences), alternative, seed))


def _flipped(sums: np.ndarray, alternative: Alternative, seed: int) -> float | None:
    """p-value of flipping these signs; None when the best could not reach 0.05."""
    return sign_flip_test(sums, alternative, seed) if smallest_p(len(sums), alternative) <= SIGNIFICANT else None


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
