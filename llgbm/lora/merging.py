"""The known ways to make one adapter of several."""

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from peft.utils import merge_utils
from torch import Tensor
from transformers import PreTrainedModel

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors, combine, truncate
from llgbm.lora.peft_io import read_adapters, target_shapes
from llgbm.lora.seeding import seeded


@runtime_checkable
class HasModel(Protocol):
    """A base: whatever holds a causal LM."""

    @property
    def model(self) -> PreTrainedModel: ...


@dataclass(frozen=True)
class MergeMethod:
    """A way to make one adapter of several."""

    function: Callable[..., LoRAFactors]
    """(factors of K adapters, weights [K], the options named in `takes`) -> factors of one."""
    source: str
    takes: tuple[str, ...] = ()
    """`rank` (optional) and `density` (the share of entries kept, required)."""


class AdapterMerger:
    """Merges adapters of one base.

    Args:
        base_or_shapes: The base, or module name -> (d_in, d_out) in the order of its modules.
    """

    def __init__(self, base_or_shapes: HasModel | Mapping[str, tuple[int, int]]) -> None:
        self.shapes = dict(base_or_shapes) if isinstance(base_or_shapes, Mapping) else target_shapes(base_or_shapes.model, "all-linear")

    def merge(
        self,
        adapters: LoRAFactors | Sequence[str | Path],
        weights: Float[Tensor, " K"] | Sequence[float],
        method: str = "product",
        *,
        density: float | None = None,
        rank: int | None = None,
        seed: int = 0,
    ) -> LoRAFactors:
        """One adapter of several.

        Args:
            adapters: Factors of K adapters, or paths of K.
            weights: One per adapter; they need not sum to 1 and may be negative.
            method: A name of MERGE_METHODS.
            density: Share of entries that pruning keeps, in (0, 1]; for the methods that prune, and required there.
            rank: Of the result; for `product` (default: the sum of the ranks, exact) and `svd` (default: the largest rank).
            seed: Of the random pruning of dare; torch's global generator is left as it was.

        Returns:
            K = 1, scaling 1, on the CPU.

        Raises:
            InputError: Unknown method, an option that it does not take or lacks, not one finite weight per adapter, modules that the
                base has not, or different ranks or targets under a method that adds A and B entry by entry.

        Source:
            PEFT's `add_weighted_adapter`, same numbers (for dare: from the same state of the generator once PEFT has made its new
            adapter). Departs from it for one adapter, where PEFT takes `linear` whatever was asked.
        """
        options = _checked_options(method, {"density": density, "rank": rank})
        factors = self._fitted(adapters if isinstance(adapters, LoRAFactors) else read_adapters(adapters))
        scales = torch.as_tensor(weights, dtype=torch.float32).cpu()
        if scales.shape != (factors.n_adapters,) or not bool(torch.isfinite(scales).all()):
            raise InputError(f"weights {scales.tolist()} for {factors.n_adapters} adapters; give one finite weight per adapter")
        with seeded(seed, next(iter(factors.a.values())).device):
            return MERGE_METHODS[method].function(factors, scales, **options)

    def _fitted(self, factors: LoRAFactors) -> LoRAFactors:
        """The touched modules in the base's order, which is the order in which PEFT draws random numbers."""
        touched = {name: shape for name, shape in factors.shapes.items() if any(factors.ranks[name])}
        if not touched:
            raise InputError("no adapters to merge; give at least one that touches a module")
        for name, shape in touched.items():
            if self.shapes.get(name) != shape:
                raise InputError(f"{name} is {shape} (d_in, d_out), the base has {self.shapes.get(name)}; merge adapters of one base")
        names = [name for name in self.shapes if name in touched]
        a, b, scaling = ({name: part[name] for name in names} for part in (factors.a, factors.b, factors.scaling))
        return LoRAFactors(a, b, scaling, {name: factors.ranks[name] for name in names}).to("cpu")


def _product(factors: LoRAFactors, weights: Tensor, rank: int | None = None) -> LoRAFactors:
    """Exactly sum_k weights[k] * scaling_k B_k A_k, or the nearest adapter of a smaller rank."""
    combined = combine(factors, weights)
    return combined if rank is None else truncate(combined, rank)


def _svd(factors: LoRAFactors, weights: Tensor, rank: int | None = None) -> LoRAFactors:
    """The product, cut to the largest rank of the adapters unless another is given."""
    return _product(factors, weights, max(r for ranks in factors.ranks.values() for r in ranks) if rank is None else rank)


def _entrywise(function: Callable[..., Tensor]) -> Callable[..., LoRAFactors]:
    """PEFT's way to use a merge of full weights on factors: on all A and on all B, each with the root of weight * scaling.

    The sign of a negative weight goes to A. The product of two sums is not the sum of products: cross terms A_i B_j remain.
    """

    def merge(factors: LoRAFactors, weights: Tensor, **options: Any) -> LoRAFactors:
        _check_alike(factors)
        merged = LoRAFactors({}, {}, {}, {})
        for name, (rank, *_) in factors.ranks.items():
            scaled = weights * factors.scaling[name]
            root, sign = scaled.abs().sqrt(), torch.where(scaled >= 0, 1.0, -1.0)
            a, b = factors.a[name][:, :rank], factors.b[name][:, :, :rank]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The density 1")  # keeping everything is a fair wish
                merged.a[name] = function(list(a), root * sign, **options)[None].to(a.dtype)
                merged.b[name] = function(list(b), root, **options)[None].to(b.dtype)
            merged.scaling[name], merged.ranks[name] = torch.ones(1), (rank,)
        return merged

    return merge


PEFT_DOCS = "https://huggingface.co/docs/peft/developer_guides/model_merging"
MERGE_METHODS: dict[str, MergeMethod] = {
    "product": MergeMethod(_product, "exact weighted sum of weight changes; task arithmetic, https://arxiv.org/abs/2212.04089", ("rank",)),
    "cat": MergeMethod(combine, PEFT_DOCS),
    "svd": MergeMethod(_svd, PEFT_DOCS, ("rank",)),
    "linear": MergeMethod(_entrywise(merge_utils.task_arithmetic), "https://arxiv.org/abs/2212.04089"),
    "ties": MergeMethod(_entrywise(merge_utils.ties), "https://arxiv.org/abs/2306.01708", ("density",)),
    "dare_linear": MergeMethod(_entrywise(merge_utils.dare_linear), "https://arxiv.org/abs/2311.03099", ("density",)),
    "dare_ties": MergeMethod(_entrywise(merge_utils.dare_ties), "https://arxiv.org/abs/2311.03099", ("density",)),
    "magnitude_prune": MergeMethod(_entrywise(merge_utils.magnitude_prune), PEFT_DOCS, ("density",)),
}
"""Name -> method; `product`, `cat` and `svd` take adapters of any ranks and targets, the others need them alike."""


def _checked_options(method: str, options: Mapping[str, float | int | None]) -> dict[str, float | int]:
    """The options that were given, once they are those that the method takes."""
    if method not in MERGE_METHODS:
        near = difflib.get_close_matches(method, MERGE_METHODS, n=2, cutoff=0.5)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise InputError(f"merge method {method!r} is unknown{hint}; methods: {', '.join(MERGE_METHODS)}")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - set(MERGE_METHODS[method].takes):
        takers = ", ".join(other for other, entry in MERGE_METHODS.items() if name in entry.takes)
        raise InputError(f"merge method {method} takes no {name} ({given[name]}); leave it out, or use one of {takers}")
    density = given.get("density")
    if "density" in MERGE_METHODS[method].takes and (density is None or not 0 < density <= 1):
        raise InputError(f"merge method {method} needs a density above 0 and at most 1, the share of entries kept; it is {density}")
    return given


def _check_alike(factors: LoRAFactors) -> None:
    for name, ranks in factors.ranks.items():
        if len(set(ranks)) > 1:
            raise InputError(
                f"{name}: the adapters have ranks {', '.join(map(str, ranks))} (0: not a target), but this merge method adds A and B entry "
                "by entry; use product, cat or svd"
            )
