"""A ridge regression from a condition's mean vector to the teachers' B, for one constant A: where a generator may start.

With few teachers it reads better than a trained network, which finds some way to tell so few tasks apart that says nothing of
others. The network adds what the regression misses. In training each task is answered by a regression that never saw it, as
unseen tasks will be; otherwise there would be nothing left to learn.

Letters: T teachers, n texts of a task, E embedding width, Q directions, F folds, r rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.lora.factors import LoRAFactors
from llgbm.lora.stored import StoredFactors, parts_of

FOLDS = 8
"""Regressions for training, each without the tasks of one fold."""
TINY = 1e-12


@dataclass(frozen=True)
class RidgeFit:
    """Means and directions of B, and how a text says which coordinates along them."""

    center: Float[Tensor, " E"]
    maps: Float[Tensor, "_ E Q"]
    """F + 1 of them: without the tasks of each fold, and of all tasks."""
    mean: dict[str, Tensor]
    """Module name -> [d_out, r]."""
    directions: dict[str, Tensor]
    """Module name -> [Q, d_out, r]."""


def fit_ridge(
    teachers: LoRAFactors | StoredFactors,
    constant: dict[str, Tensor],
    scaling: float,
    texts: Sequence[Float[Tensor, "_ E"]],
    folds: Sequence[int],
    directions: int,
    shrinkage: float,
) -> RidgeFit:
    """Fit it; needs memory for every teacher's B.

    Args:
        teachers: T adapters.
        constant: Module name -> the A [r, d_in] that every written adapter has; B is the best one for it, whatever the teacher's own A.
        scaling: Of the written adapters.
        texts: For each teacher the mean vectors of its task's texts.
        folds: For each teacher the fold of its task, below FOLDS.
        directions: Q, fewer than T.
        shrinkage: Added to the squared singular values of the texts' vectors, relative to a text's mean square norm.
    """
    b = best_b(teachers, constant, scaling)
    mean = {name: value.mean(0) for name, value in b.items()}
    gram = torch.zeros(len(texts), len(texts), dtype=torch.double)
    for name, value in b.items():
        changed = (value @ torch.linalg.qr(constant[name].double().mT).R.mT).flatten(1)  # B A without an orthonormal basis of A's rows
        gram += (changed - changed.mean(0)) @ (changed - changed.mean(0)).T / changed.square().sum(1).mean().clamp_min(TINY)
    values, vectors = (x.flip(-1)[..., :directions] for x in torch.linalg.eigh(gram))
    spread = values.clamp_min(TINY).sqrt()
    coordinates = [row.expand(len(rows), -1) for row, rows in zip(vectors * spread, texts, strict=True)]
    every = torch.cat(list(texts)).double()
    center = every.mean(0)
    of_fold = torch.cat([torch.full((len(rows),), fold) for fold, rows in zip(folds, texts, strict=True)])
    maps = [solve_ridge(every - center, torch.cat(coordinates), of_fold != fold, shrinkage) for fold in range(FOLDS + 1)]
    return RidgeFit(
        center.float(),
        torch.stack(maps).float(),
        {name: value.float() for name, value in mean.items()},
        {name: torch.einsum("tq,tor->qor", vectors / spread, value - mean[name]).float() for name, value in b.items()},
    )


def best_b(teachers: LoRAFactors | StoredFactors, constant: dict[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """The B of each teacher that brings B times the constant A nearest to its own weight change, in float64."""
    found: dict[str, list[Tensor]] = {name: [] for name in constant}
    for part in parts_of(teachers):
        for name, a in constant.items():
            if name not in part.a:
                found[name].append(torch.zeros(part.n_adapters, teachers.shapes[name][1], len(a), dtype=torch.double))
                continue
            across = part.a[name].double().cpu() @ torch.linalg.pinv(a.double())
            found[name].append(part.b[name].double().cpu() @ across * (part.scaling[name].double().cpu() / scaling)[:, None, None])
    return {name: torch.cat(parts) for name, parts in found.items()}


def solve_ridge(texts: Float[Tensor, "n E"], coordinates: Float[Tensor, "n Q"], used: Tensor, shrinkage: float) -> Float[Tensor, "E Q"]:
    """Ridge regression over the texts that are used; zero where none is."""
    x, y = texts[used], coordinates[used]
    if not len(x):
        return torch.zeros(texts.shape[1], coordinates.shape[1], dtype=torch.double)
    added = shrinkage * x.square().sum(1).mean().clamp_min(TINY)
    return torch.linalg.solve(x.T @ x + added * torch.eye(x.shape[1], dtype=torch.double), x.T @ y)
