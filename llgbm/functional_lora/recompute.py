"""Gradient checkpointing of the base under functional LoRA: each layer's activations are computed again in the backward pass.

transformers' own checkpointing would run a layer again after the call that put the adapters into their slots, without
them. Here every layer remembers the factors, and the tokens to compute, it was called with.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llgbm.errors import InputError
from llgbm.functional_lora.last_layer import COLUMNS
from llgbm.functional_lora.wrap import FunctionalLoRA

CALL_BUFFERS = ("lora_a", "lora_b", COLUMNS)
"""What functional LoRA puts into a layer's modules for one call."""


def can_recompute(functional: FunctionalLoRA) -> bool:
    """Whether the base's layers support it."""
    return any(isinstance(module, GradientCheckpointingLayer) for module in functional.model.modules())


def recompute_layers(functional: FunctionalLoRA, field: str = "training.gradient_checkpointing") -> None:
    """Make every layer of the wrapped base recompute its activations; its outputs and gradients stay the same.

    Args:
        functional: The wrapped base; one that recomputes already stays as it is.
        field: The config field that asks for it.

    Raises:
        InputError: The base's layers do not support it.
    """
    if functional.recomputes:
        return
    layers = [module for module in functional.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        kind = type(functional.model).__name__
        raise InputError(f"{field} is not supported by {kind}; set it to false")
    for layer in layers:
        layer.forward = _recomputed(layer)
    functional.recomputes = True
    functional.measured.clear()


def _recomputed(layer: nn.Module) -> Callable[..., Any]:
    original = layer.forward
    places = [(module._buffers, name) for module in layer.modules() for name in CALL_BUFFERS if name in module._buffers]

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        held = [buffers[name] for buffers, name in places]

        def run(*inputs: Any) -> Any:
            with _holding(places, inputs[: len(held)]):
                return original(*inputs[len(held) :], **kwargs)

        return checkpoint(run, *held, *args, use_reentrant=False)

    return forward


@contextlib.contextmanager
def _holding(places: Sequence[tuple[dict[str, Any], str]], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put tensors into the buffers, and back what was there."""
    before = [buffers[name] for buffers, name in places]
    try:
        for (buffers, name), tensor in zip(places, tensors, strict=True):
            buffers[name] = tensor
        yield
    finally:
        for (buffers, name), old in zip(places, before, strict=True):
            buffers[name] = old
