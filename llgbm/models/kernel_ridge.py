"""Kernel ridge regression with an intercept, and how tasks are held out to choose it.

Letters: n known rows, E their width, F outputs, q asked rows, P tasks.
"""

import random
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda inner: inner,
    "quadratic": torch.square,
    "polynomial": lambda inner: (1 + inner).square(),
}
"""From inner products. On one-hot attributes `quadratic` weighs every attribute and every pair of them; `polynomial` is both of the
others, for rows of unit length."""
FOLDS = 5
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Ridges to choose from."""
TINY = 1e-12


class KernelRidge:
    """Predicts outputs from rows: their mean, and a function of the centered kernel.

    Args:
        strength: The ridge, as a share of the known rows' mean variance in the kernel's space, times their number.

    Source: Saunders et al. 1998, Ridge regression learning algorithm in dual variables; in float64.
    """

    def __init__(self, rows: Float[Tensor, "n E"], outputs: Float[Tensor, "n F"], kernel: str, strength: float) -> None:
        self.rows, self.kernel = rows.double(), KERNELS[kernel]
        known = self.kernel(self.rows @ self.rows.mT)
        self.row_mean = known.mean(1)
        self.mean = outputs.double().mean(0)
        centered = self._centered(known)
        variance = centered.diagonal().mean().clamp_min(TINY)
        centered.diagonal().add_(strength * len(rows) * variance)
        self.dual = torch.cholesky_solve(outputs.double() - self.mean, torch.linalg.cholesky(centered))

    def __call__(self, asked: Float[Tensor, "q E"]) -> Float[Tensor, "q F"]:
        """What is predicted for each row, float64."""
        return self.mean + self._centered(self.kernel(asked.double() @ self.rows.mT)) @ self.dual

    def uncentered(self) -> tuple[Float[Tensor, "n F"], Float[Tensor, " F"]]:
        """Weights and intercept that predict the same from the kernel as it is: `intercept + kernel(asked @ rows.mT) @ weights`."""
        return self.dual - self.dual.mean(0), self.mean - (self.row_mean - self.row_mean.mean()) @ self.dual

    def _centered(self, inner: Float[Tensor, "q n"]) -> Float[Tensor, "q n"]:
        return inner - inner.mean(1, keepdim=True) - self.row_mean + self.row_mean.mean()


def known_without(owners: Int[Tensor, " n"], held: Sequence[int]) -> Int[Tensor, " m"]:
    """The rows whose owners are not held out."""
    return (~torch.isin(owners, torch.tensor(held))).nonzero().flatten()


def folds(count: int, most: int, seed: int = 0) -> list[list[int]]:
    """Which of the tasks are held out together: `FOLDS` disjoint groups of at most `most` tasks in all, drawn at random; none is empty."""
    drawn = random.Random(f"folds/{seed}").sample(range(count), min(count, most))
    return [fold for fold in (drawn[i::FOLDS] for i in range(FOLDS)) if fold]
