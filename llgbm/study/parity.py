"""Whether a backend gives the very tokens that each adapter gives when it is merged and asked alone; only then its times count."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from llgbm.study.serving import Backend, Kind, Served

ADAPTERS = 8
"""Adapters compared, each with a prompt of its own."""


@dataclass(frozen=True)
class Reference:
    """Greedy answers of transformers alone, one request at a time: of the base, and of each adapter merged into it."""

    prompts: Int[Tensor, "B T"]
    base: Int[Tensor, "B N"]
    adapters: Int[Tensor, "B N"]
    """Row k is adapter k's answer to prompt k."""
    first: Int[Tensor, "B N"]
    """The first adapter's answers to all prompts."""

    @property
    def tokens(self) -> int:
        """How many a backend has to match."""
        return 4 * self.base.numel()

    @property
    def changed(self) -> float:
        """Share of prompts whose answer is not the base's: with 0, agreement would say nothing about adapters."""
        return float((self.base != self.adapters).any(1).float().mean())


def make_reference(served: Served, prompts: Int[Tensor, "B T"]) -> Reference:
    """Answer with plain models; at most `ADAPTERS` prompts and adapters are used."""
    rows = prompts[: min(ADAPTERS, served.factors.n_adapters)]
    base = torch.cat([served.answer(served.model, row[None]) for row in rows])
    model = served.merged(0)
    first = torch.cat([served.answer(model, row[None]) for row in rows])
    adapters = [first[:1]]
    for index in range(1, len(rows)):
        model = served.merged(index)
        adapters.append(served.answer(model, rows[index][None]))
    return Reference(rows, base, torch.cat(adapters), first)


def disagreement(backend: Backend, reference: Reference) -> str | None:
    """In words, the first token in which a backend differs; None when it differs in none.

    Compared are the base, the merged model, one adapter for all rows, and a batch in which every row has an adapter of its own.
    """
    rows = len(reference.prompts)
    asked: tuple[tuple[str, Kind, list[int], Tensor], ...] = (
        ("the base", "base", [0] * rows, reference.base),
        ("the merged model", "merged", [0] * rows, reference.first),
        ("one adapter", "adapters", [0] * rows, reference.first),
        (f"{rows} adapters in one batch", "adapters", list(range(rows)), reference.adapters),
    )
    for name, kind, adapters, expected in asked:
        found = backend.server(kind)(reference.prompts, adapters).to(expected.device)
        if found.shape != expected.shape:
            return f"{name}: answers of {tuple(found.shape)} tokens, expected {tuple(expected.shape)}"
        if bool((found != expected).any()):
            row, place = (int(x) for x in (found != expected).nonzero()[0])
            tokens = f"token {place + 1} is {int(found[row, place])}, expected {int(expected[row, place])}"
            return f"{name}, request {row + 1}: {tokens}"
    return None
