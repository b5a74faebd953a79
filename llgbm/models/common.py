"""What the teachers of a module have in common: sizes of A and B, and one A from which adapters for all of them can be written.

Letters: K teachers, r rank, P columns of the sketch.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.lora.factors import LoRAFactors
from llgbm.lora.stored import StoredFactors, parts_of

SHARED = 0.5
"""Share of the mean square of A that its mean has to have for the teachers to count as started from one A."""
OVERSAMPLING = 4
"""Columns of the sketch for each rank."""
TINY = 1e-12


class TeacherSums:
    """Sums over the teachers that have a module, in float64: of A, of the squares of A and of B at one scaling, and a sketch.

    Args:
        rank: Of the A that is wanted.
        d_in: Width of the module's input.
        scaling: At which B is measured.
    """

    def __init__(self, rank: int, d_in: int, scaling: float) -> None:
        self.rank, self.scaling, self.count = rank, scaling, 0
        self.mean_square_a = self.mean_square_b = 0.0
        self.a = torch.zeros(rank, d_in, dtype=torch.double)
        columns = min(OVERSAMPLING * rank, d_in)
        self.probe = torch.randn(d_in, columns, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        self.sketch = torch.zeros_like(self.probe)

    def add(self, part: LoRAFactors, name: str) -> None:
        """More teachers."""
        present = [k for k, rank in enumerate(part.ranks[name]) if rank]
        if not present:
            return
        a, b = part.a[name][present].double().cpu(), part.b[name][present].double().cpu()
        b = b * (part.scaling[name][present].double().cpu() / self.scaling)[:, None, None]
        share = len(present) / (self.count + len(present))
        self.mean_square_a += share * (float(a.square().mean()) - self.mean_square_a)
        self.mean_square_b += share * (float(b.square().mean()) - self.mean_square_b)
        self.a[: a.shape[1]] += a.sum(0)
        self.sketch += (a.mT @ (b.mT @ b @ (a @ self.probe))).sum(0)
        self.count += len(present)

    def common_a(self) -> Float[Tensor, "r d_in"]:
        """The mean of A where teachers started from one A, most of which it is then.

        Otherwise A says nothing by itself, as the same BA has many; then the input directions in which the weight changes are
        largest, of the same size as the teachers' A.
        """
        mean = self.a / self.count
        if mean.square().mean() >= SHARED * self.mean_square_a or not self.sketch.any():
            return mean
        return self.main_inputs()

    def main_inputs(self) -> Float[Tensor, "_ d_in"]:
        """Input directions in which the weight changes are largest, as many as the rank or the width, of the size of the teachers' A."""
        rows = _leading_directions(self.probe, self.sketch if self.sketch.any() else self.probe, self.rank)
        return rows * (self.mean_square_a * rows.shape[1]) ** 0.5


def teacher_sums(
    teachers: LoRAFactors | StoredFactors, shapes: dict[str, tuple[int, int]], rank: int, scaling: float
) -> dict[str, TeacherSums]:
    """The sums of each module, from every teacher that has it; arguments as in `TeacherSums`."""
    sums = {name: TeacherSums(rank, d_in, scaling) for name, (d_in, _) in shapes.items()}
    for part in parts_of(teachers):
        for name in sums.keys() & part.a.keys():
            sums[name].add(part, name)
    return sums


def _leading_directions(probe: Float[Tensor, "d_in P"], sketch: Float[Tensor, "d_in P"], count: int) -> Float[Tensor, "r d_in"]:
    """Orthonormal leading eigenvectors of G, symmetric and positive, from `sketch` = G @ `probe`.

    Source: the Nystroem approximation, Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithm 5.5.
    """
    values, vectors = torch.linalg.eigh((probe.mT @ sketch + sketch.mT @ probe) / 2)
    root = vectors / values.clamp_min(TINY * values.max()).sqrt()
    return torch.linalg.svd(sketch @ root, full_matrices=False).U[:, :count].mT.contiguous()
