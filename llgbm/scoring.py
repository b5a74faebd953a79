"""Exact match and negative log-likelihood of K adapters by teacher forcing: one forward, no decoding.

Greedy decoding says exactly the gold tokens and ends if and only if, along them, every token is the most likely one; so one
forward over the gold answer decides it. What is reported is `matching`, which also accepts other tokens of the same text.

Shapes: K adapters, b rows each, N = K * b rows of T tokens, n response tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from llgbm.dataset import TokenBatch, concatenate
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors

MEMORY_BYTES = 1 << 26
"""Default budget of one forward. Small enough for CPU caches: with the micro base larger chunks are no faster."""


@dataclass(frozen=True)
class Score:
    """What each row scored, on the CPU."""

    exact: Bool[Tensor, " N"]
    """Whether greedy decoding gives the whole answer and then ends."""
    nll_sum: Float[Tensor, " N"]
    """Negative log-likelihood of the answer with its end token: nats, summed over tokens, float32."""
    n_tokens: Int[Tensor, " N"]
    """Response tokens of the row."""
    strays: Int[Tensor, "N 2"] | None = None
    """Where greedy decoding first leaves the answer (-1: nowhere), and the token it says there."""

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def exact_match(self) -> float:
        """Fraction of rows answered exactly."""
        return self.exact.double().mean().item()

    @property
    def nll(self) -> float:
        """Nats per response token."""
        return (self.nll_sum.double().sum() / self.n_tokens.sum()).item()

    def rows(self, index: slice) -> "Score":
        """Scores of the chosen rows."""
        return Score(self.exact[index], self.nll_sum[index], self.n_tokens[index], None if self.strays is None else self.strays[index])

    @staticmethod
    def join(scores: Sequence["Score"]) -> "Score":
        """The scores of several batches, one after another."""
        strays = [s.strays for s in scores if s.strays is not None]
        parts = [torch.cat([getattr(s, part) for s in scores]) for part in ("exact", "nll_sum", "n_tokens")]
        exact, nll_sum, n_tokens = parts
        return Score(exact, nll_sum, n_tokens, torch.cat(strays) if len(strays) == len(scores) else None)


def score(functional: FunctionalLoRA, factors: LoRAFactors | None, batch: TokenBatch, memory_bytes: int = MEMORY_BYTES) -> Score:
    """Score every row of a batch.

    Args:
        functional: The wrapped base.
        factors: K adapters; row k * b + j is answered by adapter k. None scores the base.
        batch: N = K * b rows; each needs at least one response token.
        memory_bytes: Roughly what one forward may take; larger batches are split by adapters, then by rows.

    Raises:
        InputError: N is no multiple of K, or a row has no response token.
    """
    n_adapters = 1 if factors is None else factors.n_adapters
    if n_adapters == 0 or len(batch) % n_adapters:
        raise InputError(f"{len(batch)} rows for {n_adapters} adapters; give every adapter the same number of rows")
    if not bool(batch.predicts.any(1).all()):
        raise InputError(f"row {int(batch.predicts.any(1).long().argmin())} has no response token; every scored row needs an answer")
    per_adapter = len(batch) // n_adapters
    at_once = max(1, memory_bytes // _row_bytes(functional, batch))
    if factors is None or at_once < per_adapter:
        chunks = _by_rows(factors, per_adapter, n_adapters, at_once)
    else:
        chunks = _by_adapters(factors, per_adapter, n_adapters, at_once // per_adapter)
    return Score.join([_forward(functional, chosen, batch.rows(rows)) for chosen, rows in chunks])


def score_each(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    batches: Sequence[TokenBatch],
    pad_token_id: int,
    memory_bytes: int = MEMORY_BYTES,
) -> list[Score]:
    """Score adapter k on its own batch k, whatever the numbers and lengths of their rows.

    Adapters with equally many rows run together, those of similar length first, so little is padding.

    Raises:
        InputError: Not one batch per adapter.
    """
    if factors is not None and factors.n_adapters != len(batches):
        raise InputError(f"{len(batches)} batches for {factors.n_adapters} adapters; give one batch per adapter")
    results: dict[int, Score] = {}
    order = sorted(range(len(batches)), key=lambda k: (len(batches[k]), batches[k].input_ids.shape[1]))
    for group in _alike(order, batches):
        chosen = None if factors is None else factors.select(group)
        joined = score(functional, chosen, concatenate([batches[k] for k in group], pad_token_id), memory_bytes)
        rows = len(batches[group[0]])
        results |= {k: joined.rows(slice(i * rows, (i + 1) * rows)) for i, k in enumerate(group)}
    return [results[k] for k in range(len(batches))]


def _alike(order: list[int], batches: Sequence[TokenBatch]) -> Iterator[list[int]]:
    """Runs of adapters with the same number of rows and at most a quarter of padding."""
    group: list[int] = []
    for k in order:
        if group:
            first = batches[group[0]]
            if len(batches[k]) != len(first) or batches[k].input_ids.shape[1] > 1.25 * first.input_ids.shape[1]:
                yield group
                group = []
        group.append(k)
    if group:
        yield group


def _by_adapters(factors: LoRAFactors, per_adapter: int, n_adapters: int, at_once: int) -> Iterator[tuple[LoRAFactors, slice]]:
    for start in range(0, n_adapters, at_once):
        stop = min(start + at_once, n_adapters)
        yield factors.select(range(start, stop)), slice(start * per_adapter, stop * per_adapter)


def _by_rows(factors: LoRAFactors | None, per_adapter: int, n_adapters: int, at_once: int) -> Iterator[tuple[LoRAFactors | None, slice]]:
    for k in range(n_adapters):
        one = None if factors is None else factors.select([k])
        for start in range(k * per_adapter, (k + 1) * per_adapter, at_once):
            yield one, slice(start, min(start + at_once, (k + 1) * per_adapter))


@torch.no_grad()
def _forward(functional: FunctionalLoRA, factors: LoRAFactors | None, batch: TokenBatch) -> Score:
    batch = batch.to(functional.device)
    factors = None if factors is None else factors.to(device=functional.device)
    logits = functional(factors, batch.input_ids, batch.attention_mask, logits_at=batch.predicts).logits
    assert logits is not None
    n_tokens = batch.predicts.sum(1)
    owner = torch.repeat_interleave(n_tokens)
    zeros = torch.zeros(len(batch), device=logits.device)
    strays = _strays(logits.argmax(-1), batch.targets, owner, n_tokens)
    nll_sum = zeros.index_add(0, owner, F.cross_entropy(logits.float(), batch.targets, reduction="none"))
    return Score((strays[:, 0] < 0).cpu(), nll_sum.cpu(), n_tokens.cpu(), strays.cpu())


def _strays(
    said: Int[Tensor, " n"], targets: Int[Tensor, " n"], owner: Int[Tensor, " n"], n_tokens: Int[Tensor, " N"]
) -> Int[Tensor, "N 2"]:
    """See `Score.strays`."""
    starts = n_tokens.cumsum(0) - n_tokens
    place = torch.arange(len(said), device=said.device) - starts[owner]
    nowhere = len(said)
    first = torch.full_like(n_tokens, nowhere).scatter_reduce(0, owner, place.masked_fill(said == targets, nowhere), "amin")
    right = first == nowhere
    return torch.stack([first.masked_fill(right, -1), said[starts + first.masked_fill(right, 0)].masked_fill(right, -1)], dim=1)


def _row_bytes(functional: FunctionalLoRA, batch: TokenBatch) -> int:
    """A rough upper estimate of what one row needs in a forward: one layer's activations, attention, and its logits."""
    config = functional.model.config.get_text_config()
    length = batch.input_ids.shape[1]
    widest = max((max(shape) for shape in functional.shapes.values()), default=config.hidden_size)
    itemsize = functional.model.dtype.itemsize
    activations = itemsize * length * (8 * config.hidden_size + 3 * widest)
    attention = itemsize * length * length * config.num_attention_heads
    logits = (itemsize + 8) * int(batch.predicts.sum(1).max()) * config.vocab_size
    return activations + attention + logits
