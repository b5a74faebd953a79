"""LoRA factors of K adapters at once, and algebra on their products that never forms a dense B A.

Shapes: K adapters, rank r (the largest; smaller ones are padded with zeros), d_in and d_out of the module.
Orientation is PEFT's: the adapted weight is W + scaling * B A, with A [r, d_in] and B [d_out, r].
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.errors import InputError
from llgbm.files import hash_json, hash_tensors
from llgbm.transfer import to_device


@dataclass
class LoRAFactors:
    """A, B and scaling of K adapters by full module name (`model.layers.0.self_attn.q_proj`)."""

    a: dict[str, Tensor]
    """Module name -> A, [K, r, d_in]; rows beyond an adapter's rank are zero."""
    b: dict[str, Tensor]
    """Module name -> B, [K, d_out, r]; columns beyond an adapter's rank are zero."""
    scaling: dict[str, Tensor]
    """Module name -> alpha / rank (or alpha / sqrt(rank)) of each adapter, [K] float32; 0 where it has no such module."""
    ranks: dict[str, tuple[int, ...]]
    """Module name -> rank of each adapter before padding; 0 where the adapter does not touch the module."""

    @property
    def n_adapters(self) -> int:
        """K."""
        return len(next(iter(self.ranks.values()), ()))

    @property
    def module_names(self) -> tuple[str, ...]:
        """Modules that at least one adapter touches, in storage order."""
        return tuple(self.a)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Module name -> (d_in, d_out)."""
        return {name: (self.a[name].shape[2], self.b[name].shape[1]) for name in self.a}

    def tensors(self) -> list[Tensor]:
        """All A, then all B, in module order: what an optimizer trains."""
        return [*self.a.values(), *self.b.values()]

    def map(self, function: Callable[[Tensor], Tensor]) -> "LoRAFactors":
        """Apply a function to every A and B; scaling and ranks stay."""
        return LoRAFactors(
            {name: function(tensor) for name, tensor in self.a.items()},
            {name: function(tensor) for name, tensor in self.b.items()},
            dict(self.scaling),
            dict(self.ranks),
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LoRAFactors":
        """Move everything to a device; `dtype` changes A and B only (scaling stays float32)."""
        moved = self.map(lambda tensor: tensor.to(device=device, dtype=dtype))
        moved.scaling = {name: tensor.to(device=device) for name, tensor in self.scaling.items()}
        return moved

    def detach(self) -> "LoRAFactors":
        """The same numbers, cut from the graph."""
        return self.map(Tensor.detach)

    def select(self, indices: Sequence[int] | Tensor) -> "LoRAFactors":
        """The chosen adapters, in that order; padding and module set stay, so shapes are those of the whole."""
        chosen = [int(i) for i in indices]
        there = next((a.device for a in self.a.values()), torch.device("cpu"))
        index = to_device(torch.tensor(chosen, dtype=torch.long), there)
        return LoRAFactors(
            {name: tensor[index] for name, tensor in self.a.items()},
            {name: tensor[index] for name, tensor in self.b.items()},
            {name: tensor[index] for name, tensor in self.scaling.items()},
            {name: tuple(ranks[i] for i in chosen) for name, ranks in self.ranks.items()},
        )

    def adapter(self, index: int = 0) -> dict[str, tuple[Tensor, Tensor, float]]:
        """One adapter without padding: module name -> (A [rank, d_in], B [d_out, rank], scaling), untouched modules left out."""
        return {
            name: (self.a[name][index, :rank], self.b[name][index, :, :rank], float(self.scaling[name][index]))
            for name, ranks in self.ranks.items()
            if (rank := ranks[index]) > 0
        }

    def content_hash(self, index: int = 0) -> str:
        """SHA-256 of what one adapter does: its A, B and scalings, whatever the order, padding or neighbors."""
        parts = self.adapter(index)
        tensors = {f"{name}.{key}": tensor for name, (a, b, _) in parts.items() for key, tensor in (("A", a), ("B", b))}
        return hash_json([hash_tensors(tensors), {name: scaling for name, (_, _, scaling) in parts.items()}])

    @staticmethod
    def zeros(shapes: Mapping[str, tuple[int, int]], rank: int, alpha: float, n_adapters: int = 1) -> "LoRAFactors":
        """Adapters whose A and B are zero, float32 on the CPU; `shapes` holds (d_in, d_out)."""
        return LoRAFactors(
            {name: torch.zeros(n_adapters, rank, d_in) for name, (d_in, _) in shapes.items()},
            {name: torch.zeros(n_adapters, d_out, rank) for name, (_, d_out) in shapes.items()},
            {name: torch.full((n_adapters,), alpha / rank) for name in shapes},
            dict.fromkeys(shapes, (rank,) * n_adapters),
        )

    @staticmethod
    def initialize(
        shapes: Mapping[str, tuple[int, int]], rank: int, alpha: float, n_adapters: int = 1, generator: torch.Generator | None = None
    ) -> "LoRAFactors":
        """Adapters as PEFT starts them: A Kaiming-uniform (|A| < 1 / sqrt(d_in)), B zero, float32 on the CPU."""
        factors = LoRAFactors.zeros(shapes, rank, alpha, n_adapters)
        for a in factors.a.values():
            bound = 1 / math.sqrt(a.shape[2])
            a.uniform_(-bound, bound, generator=generator)
        return factors

    @staticmethod
    def stack(factors: Sequence["LoRAFactors"]) -> "LoRAFactors":
        """All adapters in one: the union of their modules, ranks padded with zeros to the largest of each module.

        Raises:
            InputError: Nothing to stack, or a module has two shapes.
        """
        if not factors:
            raise InputError("no adapters to stack; give at least one")
        stacked = LoRAFactors({}, {}, {}, {})
        for name, (d_in, d_out) in _common_shapes(factors).items():
            rank = max(f.a[name].shape[1] for f in factors if name in f.a)
            parts = [_padded(f, name, rank, d_in, d_out) for f in factors]
            stacked.a[name] = torch.cat([a for a, _, _ in parts])
            stacked.b[name] = torch.cat([b for _, b, _ in parts])
            stacked.scaling[name] = torch.cat([scaling for _, _, scaling in parts])
            stacked.ranks[name] = tuple(r for f in factors for r in f.ranks.get(name, (0,) * f.n_adapters))
        return stacked


def product_inner_by_module(f: LoRAFactors, g: LoRAFactors) -> dict[str, Float[Tensor, " K"]]:
    """<s B A, s' B' A'>_F for each module both have; one of f and g may hold a single adapter, compared with all of the other.

    Never dense: the inner product is the sum of (A A'^T) * (B^T B'), two r x r' matrices.
    """
    return {
        name: ((f.a[name] @ g.a[name].mT) * (f.b[name].mT @ g.b[name])).sum((1, 2)) * f.scaling[name] * g.scaling[name]
        for name in f.a
        if name in g.a
    }


def product_inner(f: LoRAFactors, g: LoRAFactors) -> Float[Tensor, " K"]:
    """Frobenius inner product of the weight changes, summed over modules; pairs adapter k of f with adapter k of g.

    Raises:
        InputError: The two have no module in common, so there is nothing to compare.
    """
    inner = product_inner_by_module(f, g)
    if not inner:
        raise InputError(f"adapters share no module ({_some(f.module_names)}; {_some(g.module_names)}); compare adapters of one base")
    return torch.stack(list(inner.values())).sum(0)


def product_norm(f: LoRAFactors) -> Float[Tensor, " K"]:
    """Frobenius norm of the whole weight change. Its gradient at the zero adapter is undefined; square `product_inner` has one."""
    return product_inner(f, f).clamp_min(0).sqrt()


def product_gram(factors: LoRAFactors, adapters_at_once: int = 64) -> Float[Tensor, "K K"]:
    """Frobenius inner product of the weight changes of every pair of adapters, summed over modules; float32, never dense."""
    count = factors.n_adapters
    gram = torch.zeros(count, count)
    for name, a in factors.a.items():
        b = (factors.b[name] * factors.scaling[name][:, None, None]).mT
        flat_a, flat_b = (part.float().flatten(0, 1).mT for part in (a, b))
        for start in range(0, count, adapters_at_once):
            rows = slice(start, start + adapters_at_once)
            pairs = (a[rows].float() @ flat_a) * (b[rows].float() @ flat_b)
            gram[rows] += pairs.unflatten(2, (count, -1)).sum((1, 3)).cpu()
    return gram


def combine(factors: LoRAFactors, weights: Float[Tensor, " K"] | Sequence[float]) -> LoRAFactors:
    """One adapter whose weight change is exactly sum_k weights[k] * scaling_k B_k A_k, by concatenation along the rank.

    Returns:
        K = 1, scaling 1, rank the sum of the ranks; `truncate` makes it small again.

    Raises:
        InputError: Not one weight per adapter.
    """
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if weights.shape != (factors.n_adapters,):
        raise InputError(f"{tuple(weights.shape)} weights for {factors.n_adapters} adapters; give one weight per adapter")
    combined = LoRAFactors({}, {}, {}, {})
    for name, ranks in factors.ranks.items():
        scale = (weights.to(factors.scaling[name].device) * factors.scaling[name]).to(factors.b[name].dtype)
        combined.a[name] = torch.cat([factors.a[name][k, :r] for k, r in enumerate(ranks)])[None]
        combined.b[name] = torch.cat([scale[k] * factors.b[name][k, :, :r] for k, r in enumerate(ranks)], dim=1)[None]
        combined.scaling[name] = torch.ones_like(factors.scaling[name][:1])
        combined.ranks[name] = (sum(ranks),)
    return combined


def truncate(factors: LoRAFactors, rank: int) -> LoRAFactors:
    """The best approximation of each weight change by a smaller rank (Eckart-Young), through QR and an r x r SVD.

    Computed in float64; the singular values are shared evenly between A and B, scaling becomes 1.

    Raises:
        InputError: `rank` is below 1.
    """
    if rank < 1:
        raise InputError(f"rank is {rank}; it must be at least 1")
    result = LoRAFactors({}, {}, {}, {})
    for name, ranks in factors.ranks.items():
        a, b, scaling = factors.a[name], factors.b[name], factors.scaling[name]
        q_b, r_b = torch.linalg.qr((scaling[:, None, None] * b).double())
        q_a, r_a = torch.linalg.qr(a.double().mT)
        u, s, v = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
        root = s[:, None, :rank].sqrt()
        kept = root.shape[2]
        result.a[name] = (q_a @ v.mT[:, :, :rank] * root).mT.to(a.dtype).contiguous()
        result.b[name] = (q_b @ u[:, :, :rank] * root).to(b.dtype)
        result.scaling[name] = torch.tensor([1.0 if r else 0.0 for r in ranks], device=scaling.device)
        result.ranks[name] = tuple(min(r, kept) for r in ranks)
    return result


def _common_shapes(factors: Sequence[LoRAFactors]) -> dict[str, tuple[int, int]]:
    """Shape of every module of any of the adapters; InputError where two differ."""
    shapes: dict[str, tuple[int, int]] = {}
    for position, one in enumerate(factors):
        for name, shape in one.shapes.items():
            if shapes.setdefault(name, shape) != shape:
                raise InputError(
                    f"adapter {position}: {name} has (d_in, d_out) = {shape}, the adapters before it {shapes[name]}; "
                    "stack adapters of one base"
                )
    return shapes


def _padded(one: LoRAFactors, name: str, rank: int, d_in: int, d_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """A, B, scaling of one module, padded to `rank`; zeros if the adapters do not have it."""
    if name not in one.a:
        like = next(iter(one.a.values()), torch.zeros(0))
        k = one.n_adapters
        return like.new_zeros(k, rank, d_in), like.new_zeros(k, d_out, rank), torch.zeros(k, device=like.device)
    missing = rank - one.a[name].shape[1]
    if not missing:
        return one.a[name], one.b[name], one.scaling[name]
    pad = torch.nn.functional.pad
    return pad(one.a[name], (0, 0, 0, missing)), pad(one.b[name], (0, missing)), one.scaling[name]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
