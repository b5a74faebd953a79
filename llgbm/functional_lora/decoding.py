"""Greedy decoding of K adapters at once.

Shapes: K adapters, N rows (a multiple of K) of T tokens.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from llgbm.dataset import encode_texts, eos_id, pad_id
from llgbm.errors import InputError
from llgbm.functional_lora.families import COUNT_PADDING
from llgbm.functional_lora.wrap import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors


@torch.no_grad()
def greedy_decode(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    input_ids: Int[Tensor, "N T"],
    attention_mask: Int[Tensor, "N T"],
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
) -> Int[Tensor, "N new"]:
    """The most likely token, again and again, until every row has ended or `max_new_tokens` are out.

    Args:
        functional: The wrapped base.
        factors: K adapters or None, as in `FunctionalLoRA.__call__`.
        input_ids: Prompts, padded on the left.
        attention_mask: 1 at real tokens.
        max_new_tokens: Limit for each row.
        eos_token_id: Ends a row.
        pad_token_id: Fills a row after its end.

    Returns:
        New tokens only; the end token is included.

    Raises:
        InputError: A row is padded on the right, so its last column is no token; or prompts differ in length and the
            base would count the padding.
    """
    if not bool(attention_mask[:, -1].all()):
        raise InputError("a prompt is padded on the right; pad prompts on the left for decoding")
    kind = functional.model.config.model_type
    if kind in COUNT_PADDING and not bool(attention_mask.all()):
        raise InputError(f"a base of family {kind} counts padding as tokens; decode prompts of one length at a time")
    last = torch.zeros_like(input_ids, dtype=torch.bool)
    last[:, -1] = True
    ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    tokens, columns, cache = input_ids, [], None
    for _ in range(max_new_tokens):
        output = functional(factors, tokens, attention_mask, logits_at=last, past_key_values=cache, use_cache=True)
        assert output.logits is not None
        chosen = torch.where(ended, pad_token_id, output.logits.argmax(-1))
        columns.append(chosen)
        ended |= chosen == eos_token_id
        if bool(ended.all()):
            break
        cache = output.past_key_values
        tokens = chosen[:, None] if cache is not None else torch.cat([tokens, chosen[:, None]], dim=1)
        last = nn.functional.pad(last.new_ones(len(tokens), 1), (tokens.shape[1] - 1, 0))
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(tokens), 1)], dim=1)
    return torch.stack(columns, 1) if columns else input_ids[:, :0]


def complete(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_new_tokens: int = 64,
) -> list[str]:
    """Continue texts greedily; texts are divided evenly among the K adapters, in order.

    Returns:
        The new text only, without special tokens.
    """
    prompts = encode_texts(tokenizer, texts, max_length=int(tokenizer.model_max_length))
    rows = [ids[mask.bool()] for ids, mask in zip(prompts.input_ids, prompts.attention_mask, strict=True)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id(tokenizer), padding_side="left")
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    device = functional.device
    new = greedy_decode(functional, factors, ids.to(device), mask.to(device), max_new_tokens, eos_id(tokenizer), pad_id(tokenizer))
    return tokenizer.batch_decode(new, skip_special_tokens=True)
