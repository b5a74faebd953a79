"""Tasks that share a level of an attribute are not independent: which hang together, how much alike they are, and how to resample them.

Letters: n units (tasks, or pairs of them), R resamples.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from llgbm.errors import InputError
from llgbm.zoo.suite import Task

RESAMPLES = 9999
CROSSED = 2
"""Attributes resampled at once, those whose tasks are most alike: each further one counts the noise of single units twice as often."""

Clusters = Mapping[str, Sequence[str | None]]
"""Attribute -> the level of each unit; None: it shares none."""


@dataclass(frozen=True)
class Grouping:
    """Units by their level of one attribute."""

    name: str
    codes: tuple[int, ...]
    """The level of each unit, numbered from 0."""

    @property
    def n_levels(self) -> int:
        return max(self.codes) + 1

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Over the units of each level."""
        return np.bincount(self.codes, values, self.n_levels)


def task_clusters(attributes: Sequence[Mapping[str, str]]) -> Clusters:
    """Clusters of tasks from the `attributes` of each.

    MicroZoo has one unseen phrase for every value, so on `unseen_wording` these are the clusters of phrases, too.
    """
    names = dict.fromkeys(name for of_task in attributes for name in of_task)
    return {name: [of_task.get(name) for of_task in attributes] for name in names}


def joint_attributes(tasks: Sequence[Task]) -> dict[str, str]:
    """What several tasks that make one unit share with other units: the attributes of each by its place, or the task itself without any."""
    places = itertools.chain(("first", "second", "third"), (f"{n}th" for n in itertools.count(4)))
    own = [(place, task.attributes or {"task": task.name}) for place, task in zip(places, tasks, strict=False)]
    return {f"{place} {name}": level for place, attributes in own for name, level in attributes.items()}


def groupings(clusters: Clusters | None, n_units: int) -> list[Grouping]:
    """Each attribute that tells units apart and unites some; of attributes that group alike the first.

    Raises:
        InputError: An attribute names another number of levels than there are units.
    """
    found: dict[tuple[int, ...], Grouping] = {}
    for name, levels in (clusters or {}).items():
        if len(levels) != n_units:
            raise InputError(f"attribute {name} has {len(levels)} levels for {n_units} units; give each unit one")
        numbers: dict[object, int] = {}
        codes = tuple(numbers.setdefault((i,) if level is None else level, len(numbers)) for i, level in enumerate(levels))
        if 1 < len(numbers) < n_units:
            found.setdefault(codes, Grouping(name, codes))
    return list(found.values())


def intraclass_correlation(values: np.ndarray, grouping: Grouping) -> float:
    """How much alike units of one level are: 0 as if drawn at random, 1 all the same; 0 for constant values.

    Source: Donner 1986, doi:10.2307/1403259, from a one-way analysis of variance of unequal groups; it can be negative.
    """
    sizes = np.bincount(grouping.codes)
    within_means = (grouping.sums(values) / sizes)[list(grouping.codes)]
    n, groups = len(values), grouping.n_levels
    between = float(np.square(within_means - values.mean()).sum()) / (groups - 1)
    within = float(np.square(values - within_means).sum()) / (n - groups)
    size = (n - np.square(sizes).sum() / n) / (groups - 1)
    total = between + (size - 1) * within
    return float((between - within) / total) if total > 1e-12 * np.square(values).max(initial=0) else 0.0


def crossed(values: np.ndarray, groups: Sequence[Grouping]) -> list[Grouping]:
    """The at most `CROSSED` groupings that matter most to these values."""
    return sorted(groups, key=lambda group: -intraclass_correlation(values, group))[:CROSSED]


def resampling_weights(groups: Sequence[Grouping], n_units: int, seed: int) -> Float[np.ndarray, "R n"]:
    """How often each unit counts in each resample: the product, over attributes, of how often its level was drawn.

    Resamples in which no unit counts are left out. Without groupings units themselves are drawn.

    Source:
        Owen 2007, arXiv:0711.0438, the pigeonhole bootstrap. With one attribute it is the cluster bootstrap; with two, what is left
        of single units' noise is counted three times, so its intervals are too wide rather than too narrow.
    """
    return _weights(tuple(group.codes for group in groups) or (tuple(range(n_units)),), seed)


@lru_cache(maxsize=4)
def _weights(partitions: tuple[tuple[int, ...], ...], seed: int) -> np.ndarray:
    rng, weights = np.random.default_rng(seed), np.ones((RESAMPLES, len(partitions[0])))
    for codes in partitions:
        levels = max(codes) + 1
        weights *= rng.multinomial(levels, np.full(levels, 1 / levels), size=RESAMPLES)[:, list(codes)]
    return weights[weights.sum(1) > 0]
