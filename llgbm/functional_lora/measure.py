"""What one row takes in a forward of a wrapped base, measured once for each length and kind of pass."""

import torch

from llgbm.functional_lora.head import LOGITS_BYTES
from llgbm.functional_lora.wrap import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.memory import COMFORTABLE_BYTES, peak_bytes

SHORTEST = 16
"""Tokens of the shortest row that is measured; lengths are rounded up to powers of two."""
LOGITS_COPIES = 8
"""Tensors as large as a chunk of logits that a loss and its backward pass hold at once: at most."""


def row_bytes(functional: FunctionalLoRA, tokens: int, *, backward: bool = False, all_layers: bool = False) -> int:
    """Bytes of tensors that a row takes: with or without a backward pass to the factors, keeping all layers' states or none; no logits.

    Measured on a row at least as long, so attention's quadratic part is never underestimated.
    """
    length = max(SHORTEST, 1 << (tokens - 1).bit_length())
    key = (length, backward, all_layers)
    if key not in functional.measured:
        functional.measured[key] = _measured(functional, *key)
    return -(-functional.measured[key] * tokens // length)


def rows_at_once(
    functional: FunctionalLoRA, kind: str, tokens: int, most: int, *, answers: int = 0, backward: bool = False, all_layers: bool = False
) -> int:
    """How many rows of so many tokens, at most `most`, fit into memory together.

    Args:
        functional: The wrapped base.
        kind: Names the work.
        tokens: Length of the rows.
        most: More are not wanted.
        answers: Tokens of a row whose logits are computed.
        backward: Whether a backward pass to the factors follows.
        all_layers: Whether every layer's hidden states are kept.
    """
    if most <= 1:
        return 1
    each = row_bytes(functional, tokens, backward=backward, all_layers=all_layers)
    if functional.by_chunks(answers * most):
        return functional.memory.at_once(kind, each, most, logits_bytes(functional, answers * most))
    return functional.memory.at_once(kind, each + logits_bytes(functional, answers), most)


def logits_bytes(functional: FunctionalLoRA, tokens: int) -> int:
    """Bytes that the logits of so many tokens and what is computed from them take: of one chunk, where they come by chunks."""
    size = 4 * tokens * functional.vocabulary
    return LOGITS_COPIES * (min(size, LOGITS_BYTES) if functional.by_chunks(tokens) else size)


def comfortable_rows(functional: FunctionalLoRA, tokens: int) -> int:
    """How many rows share a forward before more of them gain no time; decided by shapes, so it is the same on every machine.

    The activations of a layer should stay in the cache, but need not be smaller than the weights that are read beside them.
    """
    config = functional.model.config.get_text_config()
    widest = max((max(shape) for shape in functional.shapes.values()), default=config.hidden_size)
    itemsize = functional.model.dtype.itemsize
    row = itemsize * tokens * (8 * config.hidden_size + 3 * widest + tokens * config.num_attention_heads)
    weights = sum(parameter.nbytes for parameter in functional.model.parameters())
    comfortable = COMFORTABLE_BYTES.get(functional.memory.device.type, COMFORTABLE_BYTES["cpu"])
    return max(1, max(comfortable, weights) // row)


def _measured(functional: FunctionalLoRA, length: int, backward: bool, all_layers: bool) -> int:
    context = getattr(functional.model.config.get_text_config(), "max_position_embeddings", None) or length
    ids = torch.zeros(1, min(length, context), dtype=torch.long, device=functional.device)
    factors = LoRAFactors.zeros(functional.shapes, rank=1, alpha=1.0).to(device=functional.device)
    layers = range(functional.n_layers + 1) if all_layers else (-1,)

    def work() -> None:
        for tensor in factors.tensors():
            tensor.requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            hidden = functional(factors if functional.shapes else None, ids, hidden_layers=tuple(layers)).hidden
            if backward:
                hidden[layers[-1]].float().sum().backward()

    return -(-peak_bytes(work, functional.device) * length // ids.shape[1])
