"""Which figure was not finite first: remembered on the device, so that no step waits for the host to look."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max
KINDS = (math.nan, math.inf, -math.inf)
FOLLOWING = ("loss", "gradient", "weights")
"""Figures that follow from the terms, and from each other in this order."""


@dataclass(frozen=True)
class Fault:
    """The first figure that was not finite."""

    step: int
    name: str
    value: float


class FiniteWatch:
    """Looks at every step's figures without reading them; `first_fault` reads."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, ...], Tensor] = {}
        """For each figure, `step * len(KINDS) + kind` of the first time it was not finite, NEVER before that."""

    def see(self, step: int, names: Sequence[str], values: Float[Tensor, " n"]) -> None:
        """Take note of some of a step's figures, on their device."""
        kind = values.isinf().long() + (values == -math.inf)
        codes = torch.where(values.isfinite(), NEVER, kind + step * len(KINDS))
        before = self._codes.get(tuple(names))
        self._codes[tuple(names)] = codes if before is None else torch.minimum(before, codes)

    def first_fault(self, of_all: Callable[[Tensor], Tensor]) -> Fault | None:
        """The earliest fault; of several in one step a term's before those that follow from it. The host waits once.

        Args:
            of_all: From this process's row to those of all processes.
        """
        names = [name for group in self._codes for name in group]
        codes = dict(zip(names, of_all(torch.cat([*self._codes.values()])[None]).amin(0).tolist(), strict=True))
        earliest = min(codes.values())
        if earliest == NEVER:
            return None
        step = earliest // len(KINDS)
        at_step = [name for name, code in codes.items() if code // len(KINDS) == step]
        name = min(at_step, key=lambda name: FOLLOWING.index(name) if name in FOLLOWING else -1)
        return Fault(step, name.removeprefix("loss/"), KINDS[codes[name] % len(KINDS)])
