"""Many weighted sums of one pool's weight changes, each cut to a small rank, without forming a dense B A of a large layer.

Letters: P adapters in the pool, r their rank, n = P r, k at most n and at most the layer's width, Q sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.lora.factors import LoRAFactors
from llgbm.lora.seeding import seeded

SPARE, ITERATIONS = 8, 4
"""Of the randomized SVD: singular vectors beyond those kept, and power iterations (Halko et al. 2011, arXiv:0909.4061)."""
CORE_NUMBERS = 2**24
"""Numbers of the cores that are held at once."""


@dataclass(frozen=True)
class _Module:
    """One module's factors side by side, as an orthonormal basis and coordinates in it."""

    basis_a: Float[Tensor, "d_in k"]
    coordinates_a: Float[Tensor, "P r k"]
    basis_b: Float[Tensor, "d_out l"]
    coordinates_b: Float[Tensor, "P l r"]


class Blender:
    """A pool of adapters of any ranks and initial A, ready to be summed with any weights."""

    def __init__(self, pool: LoRAFactors) -> None:
        self.modules = {name: self._module(pool, name) for name in pool.module_names}

    @staticmethod
    def _module(pool: LoRAFactors, name: str) -> _Module:
        count = pool.n_adapters
        b = pool.scaling[name][:, None, None] * pool.b[name].float()
        basis_a, coordinates_a = torch.linalg.qr(pool.a[name].float().flatten(0, 1).mT)
        basis_b, coordinates_b = torch.linalg.qr(b.permute(1, 0, 2).flatten(1))
        return _Module(
            basis_a, coordinates_a.mT.unflatten(0, (count, -1)), basis_b, coordinates_b.unflatten(1, (count, -1)).transpose(0, 1)
        )

    def blend(self, weights: Float[Tensor, "Q P"], rank: int) -> LoRAFactors:
        """Q adapters near sum_p weights[q, p] * scaling_p B_p A_p: the best ones of this rank, but for the error of a randomized SVD.

        Returns:
            Scaling 1; the same weights give the same numbers, whatever stands beside them.
        """
        found = LoRAFactors({}, {}, {}, {})
        for name, module in self.modules.items():
            parts = list(_cut(module, weights.to(module.basis_a), rank))
            a, b = (torch.cat([part[i] for part in parts]) for i in (0, 1))
            found.a[name], found.b[name] = a, b
            found.scaling[name] = torch.ones(len(weights), device=a.device)
            found.ranks[name] = (a.shape[1],) * len(weights)
        return found


def _cut(module: _Module, weights: Float[Tensor, "Q P"], rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A and B of some sums at a time."""
    at_once = max(1, CORE_NUMBERS // (module.basis_a.shape[1] * module.basis_b.shape[1]))
    for some in weights.split(at_once):
        u, s, v = _largest(_cores(module, some, at_once), rank)
        root = s[:, None].sqrt()
        yield (module.basis_a @ (v * root)).mT.contiguous(), module.basis_b @ (u * root)


def _cores(module: _Module, weights: Float[Tensor, "Q P"], at_once: int) -> Float[Tensor, "Q l k"]:
    """The sums in their bases, from some adapters of the pool at a time."""
    core = weights.new_zeros(len(weights), module.basis_b.shape[1] * module.basis_a.shape[1])
    parts = zip(weights.split(at_once, 1), module.coordinates_b.split(at_once), module.coordinates_a.split(at_once), strict=True)
    for share, b, a in parts:
        core.addmm_(share, (b @ a).flatten(1))
    return core.unflatten(1, (module.basis_b.shape[1], -1))


def _largest(core: Float[Tensor, "Q l k"], rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values and their vectors."""
    wanted = min(rank + SPARE, *core.shape[1:])
    with seeded(0, core.device):
        u, s, v = torch.svd_lowrank(core, q=wanted, niter=ITERATIONS)
    return u[..., :rank], s[..., :rank], v[..., :rank]
