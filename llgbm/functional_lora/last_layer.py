"""Work nobody looks at: the last layer's feed-forward block at tokens whose state is not asked for.

That block works on each token alone and nothing after it mixes tokens, so where only some tokens of the last layer are
wanted it may skip the others. On `micro` that is a seventh of a forward.
"""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llgbm.lora.targets import computed_in, linear_shape

COLUMNS = "wanted_columns"
"""Buffer of the block: [rows, m], the tokens to compute in each row. Empty, as it is outside a call: all."""
WORTHWHILE = 0.75
"""Share of tokens above which gathering them costs more than it saves."""


def narrow_last_layer(model: nn.Module, n_layers: int) -> str | None:
    """Let the last layer's feed-forward block compute the tokens of its buffer `COLUMNS` only; others get zeros.

    Returns:
        The block's name; None, and nothing done, where the last layer has no block named `mlp` made of linear modules
        only, or where that block mixes tokens or cannot be tried.
    """
    block = _feed_forward(model, n_layers)
    if block is None or not _works_on_each_token_alone(block):
        return None
    block.register_buffer(COLUMNS, torch.empty(0, dtype=torch.long), persistent=False)
    whole = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        columns = block.get_buffer(COLUMNS)
        if not columns.numel():
            return whole(*args, **kwargs)
        (hidden,) = (*args, *kwargs.values())
        index = columns[..., None]
        chosen = whole(hidden.gather(1, index.expand(-1, -1, hidden.shape[-1])))
        zeros = chosen.new_zeros(*hidden.shape[:2], chosen.shape[-1])
        return zeros.scatter(1, index.expand_as(chosen), chosen)

    block.forward = forward
    return next(name for name, module in model.named_modules() if module is block)


def chosen_tokens(
    logits_at: Bool[Tensor, "N T"] | None, looked_at: Bool[Tensor, "N T"] | None
) -> tuple[Int[Tensor, " n"] | None, Int[Tensor, "N m"] | None]:
    """Two masks as indices, each where its mask is; nothing is waited for where that is the host.

    Args:
        logits_at: Tokens whose logits are wanted.
        looked_at: Tokens whose last state is looked at; None means all.

    Returns:
        The places of the first mask in the flattened tokens; the columns of each row's tokens of the second, filled up with
        others to one number, None if skipping the rest is not worth it.
    """
    places = None if logits_at is None else logits_at.flatten().nonzero()[:, 0]
    most = 0 if looked_at is None else int(looked_at.sum(1).max())
    if looked_at is None or not 0 < most <= WORTHWHILE * looked_at.shape[1]:
        return places, None
    return places, looked_at.long().topk(most, dim=1).indices


def layer_stack(model: nn.Module, n_layers: int) -> nn.ModuleList | None:
    """The model's layers, where one list holds them."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    return stacks[0] if len(stacks) == 1 else None


def _feed_forward(model: nn.Module, n_layers: int) -> nn.Module | None:
    """The block named `mlp` of the last layer, if it is plain and all its weights are those of linear modules."""
    stack = layer_stack(model, n_layers)
    block = None if stack is None else getattr(stack[-1], "mlp", None)
    if not isinstance(block, nn.Module) or "forward" in vars(block) or block._forward_hooks or block._forward_pre_hooks:
        return None
    linear = {id(p) for module in block.modules() if isinstance(module, nn.Linear | Conv1D) for p in module.parameters()}
    mixes = any(isinstance(module, nn.ModuleList) for module in block.modules())  # experts: routed by token
    return block if not mixes and {id(p) for p in block.parameters()} == linear else None


@torch.no_grad()
def _works_on_each_token_alone(block: nn.Module) -> bool:
    """Whether the second of three tokens comes out the same without the others."""
    first = next((module for module in block.modules() if isinstance(module, nn.Linear | Conv1D)), None)
    if first is None:
        return False
    width, dtype = linear_shape(first)[0], computed_in(first)
    hidden = torch.linspace(-1, 1, 3 * width, device=first.weight.device).sin().to(dtype).view(1, 3, width)
    try:
        together, alone = block(hidden)[:, 1], block(hidden[:, 1:2])[:, 0]
        return bool((together - alone).norm() <= 64 * torch.finfo(dtype).eps * together.norm())
    except Exception:  # it wants further arguments, returns no tensor, holds no numbers (meta): then all tokens are computed
        return False
