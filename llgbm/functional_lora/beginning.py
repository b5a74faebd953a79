"""What an adapter's rows begin with alike, read once instead of once for every row.

A chat template puts the same tokens before every question, and a request or solved examples stand before many; with a short
question they are most of what a base reads. Keys and values of such a beginning are computed once for each adapter, and every row
goes on from them. With a backward pass it gained nothing on a CPU, so only scoring does it.

Shapes: K adapters, b sequences each, N = K * b rows of T tokens, P tokens of the beginning, V vocabulary.
"""

import torch
from torch import Tensor

from llgbm.dataset import TokenBatch
from llgbm.functional_lora.head import Logits
from llgbm.functional_lora.wrap import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors

WORTHWHILE_TOKENS, WORTHWHILE_SHARE = 1024, 0.25
"""How many tokens have to be spared, and which share of all, before a second forward gains time."""


@torch.no_grad()
def answer_logits(functional: FunctionalLoRA, factors: LoRAFactors | None, batch: TokenBatch) -> Logits:
    """The logits that predict the responses of a right-padded batch, row-major; they may come by chunks.

    Args:
        functional: The wrapped base.
        factors: K adapters where the base is; row k * b + j is answered by adapter k. None asks the base.
        batch: N rows.
    """
    n_adapters = 1 if factors is None else factors.n_adapters
    length, ids, at, cache = shared_length(batch, n_adapters), batch.to(functional.device).input_ids, batch.predicts, None
    if _is_worthwhile(batch.input_ids, n_adapters, length) and not functional.shares_forwards and functional.goes_on_from_cache:
        each = len(batch) // n_adapters
        cache = functional(factors, ids[::each, :length], use_cache=True).past_key_values
        cache.batch_repeat_interleave(each)
        ids, at = ids[:, length:], at[:, length:]
    logits = functional(factors, ids, logits_at=at, past_key_values=cache, chunked=True).any_logits
    assert logits is not None
    return logits


def shared_length(batch: TokenBatch, n_adapters: int) -> int:
    """How many tokens all rows of an adapter begin with alike, for the adapter that has fewest; none of them predicts a response."""
    rows = batch.input_ids.cpu().unflatten(0, (n_adapters, -1))
    ends = ((rows != rows[:, :1]).flatten(0, 1) | batch.predicts).any(0)
    return int(ends.long().argmax())


def _is_worthwhile(ids: Tensor, n_adapters: int, length: int) -> bool:
    spared = (len(ids) - n_adapters) * length
    return spared >= max(WORTHWHILE_TOKENS, WORTHWHILE_SHARE * ids.numel())
