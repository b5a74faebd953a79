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
from llgbm.functional_lora import FunctionalLoRA, answer_logits, by_token
from llgbm.functional_lora.measure import comfortable_rows, rows_at_once
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.stored import StoredFactors
from llgbm.transfer import to_device

ADAPTER_COPIES = 2
"""Of an adapter that shares a forward: as it was chosen for that, and as it is laid out for it."""
KEPT = ("exact", "nll_sum", "n_tokens", "n_read", "marks")
"""What of a score is one number a row."""


@dataclass(frozen=True)
class Score:
    """What each row scored, on the CPU."""

    exact: Bool[Tensor, " N"]
    """Whether greedy decoding gives the whole answer and then ends."""
    nll_sum: Float[Tensor, " N"]
    """Negative log-likelihood of the answer with its end token: nats, summed over tokens, float32."""
    n_tokens: Int[Tensor, " N"]
    """Response tokens of the row."""
    n_read: Int[Tensor, " N"]
    """Tokens the base reads before the response, virtual ones too."""
    marks: Float[Tensor, " N"]
    """What each answer is worth by its task's metric, from 0 to 1; by exact match unless it was judged otherwise, see `judging`."""
    strays: Int[Tensor, "N 2"] | None = None
    """Where greedy decoding first leaves the answer (-1: nowhere), and the token it says there."""

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def exact_match(self) -> float:
        """Fraction of rows answered exactly."""
        return self.exact.double().mean().item()

    @property
    def mean_mark(self) -> float:
        """What an answer is worth by its task's metric, in the mean."""
        return self.marks.double().mean().item()

    @property
    def nll(self) -> float:
        """Nats per response token."""
        return (self.nll_sum.double().sum() / self.n_tokens.sum()).item()

    def rows(self, index: slice) -> "Score":
        """Scores of the chosen rows."""
        strays = None if self.strays is None else self.strays[index]
        return Score(**{part: getattr(self, part)[index] for part in KEPT}, strays=strays)

    @staticmethod
    def join(scores: Sequence["Score"]) -> "Score":
        """The scores of several batches, one after another."""
        strays = [s.strays for s in scores if s.strays is not None]
        kept = {part: torch.cat([getattr(s, part) for s in scores]) for part in KEPT}
        return Score(**kept, strays=torch.cat(strays) if len(strays) == len(scores) else None)


def score(functional: FunctionalLoRA, factors: LoRAFactors | StoredFactors | None, batch: TokenBatch) -> Score:
    """Score every row of a batch, as many rows at once as `functional.memory` allows and as make it faster.

    Args:
        functional: The wrapped base.
        factors: K adapters; row k * b + j is answered by adapter k. None scores the base.
        batch: N = K * b rows; each needs at least one response token.

    Raises:
        InputError: N is no multiple of K, a row has no response token, or not even one row fits into memory.
    """
    n_adapters = 1 if factors is None else factors.n_adapters
    if n_adapters == 0 or len(batch) % n_adapters:
        raise InputError(f"{len(batch)} rows for {n_adapters} adapters; give every adapter the same number of rows")
    if not bool(batch.predicts.any(1).all()):
        raise InputError(f"row {int(batch.predicts.any(1).long().argmin())} has no response token; every scored row needs an answer")
    each = len(batch) // n_adapters

    def work(adapters: range, rows: range) -> Score:
        first = adapters.start * each + rows.start
        if factors is None or (len(adapters) == n_adapters and isinstance(factors, LoRAFactors)):
            chosen = factors
        else:
            chosen = factors.select(adapters)
        return _forward(functional, chosen, batch.rows(slice(first, first + len(adapters) * len(rows))))

    return Score.join(functional.memory.run("scoring", n_adapters, each, _rows_at_once(functional, batch), work))


def score_each(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    batches: Sequence[TokenBatch],
    pad_token_id: int,
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
        joined = score(functional, chosen, concatenate([batches[k] for k in group], pad_token_id))
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


@torch.no_grad()
def _forward(functional: FunctionalLoRA, factors: LoRAFactors | None, batch: TokenBatch) -> Score:
    factors = None if factors is None else factors.to(device=functional.device)
    logits = answer_logits(functional, factors, batch)
    batch, there = batch.to(functional.device), functional.device
    n_tokens = batch.predicts.sum(1)
    owner = to_device(torch.repeat_interleave(n_tokens), there)
    found = by_token(_said_and_nll, logits, batch.targets)
    strays = _strays(found[:, 0].long(), batch.targets, owner, to_device(n_tokens, there))
    nll_sum = torch.zeros(len(batch), device=there).index_add(0, owner, found[:, 1])
    n_read = batch.attention_mask.sum(1).cpu() - n_tokens
    exact = (strays[:, 0] < 0).cpu()
    return Score(exact, nll_sum.cpu(), n_tokens, n_read, exact.float(), strays.cpu())


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


def _said_and_nll(logits: Float[Tensor, "n V"], targets: Int[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """The most likely token (float32 holds those below 2^24 exactly) and the expected one's negative log-likelihood in nats."""
    nll = F.cross_entropy(logits.float(), targets, reduction="none")
    return torch.stack([logits.argmax(-1).float(), nll], 1)


def _rows_at_once(functional: FunctionalLoRA, batch: TokenBatch) -> int:
    """As many rows as make a forward faster and fit into memory."""
    length = batch.input_ids.shape[1]
    most = min(len(batch), comfortable_rows(functional, length))
    return rows_at_once(functional, "scoring", length, most, answers=int(batch.predicts.sum(1).max()))
