"""Virtual tokens: vectors that the base reads as if they were embedded tokens, under ids beyond its vocabulary.

So everything that takes token ids (batches, scoring, decoding) takes virtual tokens too. Letters: K tasks, V virtual tokens of
each, N rows of T tokens, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llgbm.dataset import NO_LABEL, TokenBatch
from llgbm.functional_lora.wrap import FunctionalLoRA
from llgbm.transfer import to_device


@contextmanager
def virtual_tokens(functional: FunctionalLoRA, vectors: Float[Tensor, "K V D"]) -> Iterator[None]:
    """While inside, the ids that `prefixed` puts before task k's rows stand for its vectors; gradients reach them."""
    embedding: Any = functional.model.get_input_embeddings()
    first, table, asked = embedding.weight.shape[0], vectors.flatten(0, 1), []

    def known_ids(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        asked.append(arguments[0])
        return arguments[0].clamp(max=first - 1), *arguments[1:]

    def put_in(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        ids = asked.pop()
        given = table.to(output.dtype)[(ids - first).clamp_min(0)]
        return torch.where((ids >= first)[..., None], given, output)

    hooks = embedding.register_forward_pre_hook(known_ids), embedding.register_forward_hook(put_in)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def prefixed(functional: FunctionalLoRA, batch: TokenBatch, owners: Sequence[int], per_task: int) -> TokenBatch:
    """The rows of a right-padded batch, each after the virtual tokens of the task it belongs to."""
    embedding: Any = functional.model.get_input_embeddings()
    ids = batch.input_ids
    starts = torch.tensor(owners) * per_task + embedding.weight.shape[0]
    before = starts[:, None] + torch.arange(per_task)
    there = to_device(before.to(ids.dtype), ids.device)
    return TokenBatch(
        torch.cat([there, ids], 1),
        torch.cat([torch.ones_like(there, dtype=batch.attention_mask.dtype), batch.attention_mask], 1),
        torch.cat([torch.full_like(before, NO_LABEL, dtype=batch.labels.dtype), batch.labels], 1),
    )
