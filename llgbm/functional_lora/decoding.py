"""Greedy decoding of K adapters at once.

Shapes: K adapters, N rows (a multiple of K) of T tokens.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from llgbm.errors import InputError
from llgbm.framing import Framing
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
    ends: Collection[int],
    pad_token_id: int,
    max_length: int | None = None,
    hopeless: Callable[[int, list[int]], bool] | None = None,
    prior: float = 0.0,
) -> Int[Tensor, "N new"]:
    """The most likely token, again and again, until every row has ended or `max_new_tokens` are out.

    Args:
        functional: The wrapped base.
        factors: K adapters or None, as in `FunctionalLoRA.__call__`.
        input_ids: Prompts, padded on the left.
        attention_mask: 1 at real tokens.
        max_new_tokens: Limit for each row.
        ends: Tokens each of which ends a row.
        pad_token_id: Fills a row after its end, while others go on.
        max_length: A row ends when it has so many tokens, prompt and all.
        hopeless: Called with a row and its new tokens so far; a row for which it says yes is given up.
        prior: Weight of the base's own log-probabilities beside the adapters', so that what the base would never say is not said
            (a product of experts, Hinton 2002, doi:10.1162/089976602760128018).

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
    ending = torch.tensor(sorted(ends), device=input_ids.device)
    last = torch.zeros(input_ids.shape, dtype=torch.bool)  # on the host, which knows where it is
    last[:, -1] = True
    ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    voices = [(factors, 1.0), (None, prior)] if prior and factors is not None else [(factors, 1.0)]
    tokens, columns, caches = input_ids, [], [None] * len(voices)
    for _ in range(max_new_tokens):
        scores = torch.zeros(())
        for i, (voice, weight) in enumerate(voices):
            output = functional(voice, tokens, attention_mask, logits_at=last, past_key_values=caches[i], use_cache=True)
            assert output.logits is not None
            scores = output.logits if len(voices) == 1 else scores + weight * output.logits.float().log_softmax(-1)
            caches[i] = output.past_key_values
        chosen = torch.where(ended, pad_token_id, scores.argmax(-1))
        columns.append(chosen)
        ended |= torch.isin(chosen, ending)
        if max_length is not None:
            ended |= attention_mask.sum(1) + 1 >= max_length
        if hopeless is not None:
            given_up = [row for row in (~ended).nonzero()[:, 0].tolist() if hopeless(row, torch.stack(columns, 1)[row].tolist())]
            ended[given_up] = True
        if bool(ended.all()):
            break
        tokens = chosen[:, None] if caches[0] is not None else torch.cat([tokens, chosen[:, None]], dim=1)
        last = nn.functional.pad(last.new_ones(len(tokens), 1), (tokens.shape[1] - 1, 0))
        real = torch.ones_like(ended) if kind in COUNT_PADDING else ~ended
        attention_mask = torch.cat([attention_mask, real.to(attention_mask.dtype)[:, None]], dim=1)
    return torch.stack(columns, 1) if columns else input_ids[:, :0]


def complete(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    framing: Framing,
    inputs: Sequence[str],
    max_new_tokens: int = 64,
    prior: float = 0.0,
) -> list[str]:
    """Answer inputs greedily; they are divided evenly among the K adapters, in order; `prior` as in `greedy_decode`.

    A prompt that leaves no room in the base's context is cut on the left.

    Returns:
        Each answer, without what ended it.
    """
    prompts = [framing.roomy_prompt(one) for one in inputs]
    ids, mask = (part.to(functional.device) for part in padded_left(prompts, framing.pad))
    new = greedy_decode(functional, factors, ids, mask, max_new_tokens, framing.ends, framing.pad, framing.max_length, prior=prior)
    return [framing.text(row[: framing.room(prompt, max_new_tokens)]) for prompt, row in zip(prompts, new.tolist(), strict=True)]


def padded_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """Prompts as one rectangle, padded on the left, and their mask."""
    longest = max(map(len, prompts), default=0)
    ids = torch.tensor([[pad_token_id] * (longest - len(row)) + list(row) for row in prompts])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
