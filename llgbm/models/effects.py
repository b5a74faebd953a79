"""What each level of an attribute adds to the teachers' weights: a ridge regression.

The weight change of a task is a mean, an effect of each of its levels, and a rest of its own. Estimated effects are those of least size
that say the teachers nearly exactly; larger shrinkage and effects of pairs of levels were worse on held-back tasks (docs/findings.md).

Letters: T teachers, F levels of all attributes.

Source: best linear unbiased prediction, Henderson 1975, doi:10.2307/2529430.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

REST = 0.01
"""Variance of what is a task's own, relative to that of a level's effect."""


@dataclass(frozen=True)
class Effects:
    """A task's weight change as a weighted sum of the teachers': `mean + levels @ weights`; float64."""

    mean: Float[Tensor, " T"]
    weights: Float[Tensor, "F T"]


def fit_effects(levels: Float[Tensor, "T F"]) -> Effects:
    """Estimate the effects from which levels each teacher's task has."""
    levels = levels.double()
    covariance = levels @ levels.T
    covariance.diagonal().add_(REST)
    inverse = torch.linalg.inv(covariance)
    mean = inverse.sum(0) / inverse.sum()
    return Effects(mean, levels.T @ (inverse - torch.outer(inverse.sum(1), mean)))


def levels_of(attributes: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Attribute -> its levels among tasks, by name: the order in which tasks were drawn is no part of it."""
    found: dict[str, set[str]] = {}
    for own in attributes:
        for name, level in own.items():
            found.setdefault(name, set()).add(level)
    return {name: sorted(levels) for name, levels in found.items()}


def one_hot(attributes: Sequence[dict[str, str]], levels: dict[str, list[str]]) -> Float[Tensor, "n F"]:
    """One row per task; an attribute that it lacks, or whose level is none of these, is zero."""
    rows = [[float(own.get(name) == level) for name, known in levels.items() for level in known] for own in attributes]
    return torch.tensor(rows)
