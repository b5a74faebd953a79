"""Gradient checkpointing of the base under functional LoRA: each layer's activations are computed again in the backward pass.

transformers' own checkpointing would run a layer again after the call that put the adapters into their slots, without
them. Here every layer remembers the factors it was called with.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA

SLOT_BUFFERS = ("lora_a", "lora_b")


def recompute_layers(functional: FunctionalLoRA) -> None:
    """Make every layer of the wrapped base recompute its activations; its outputs and gradients stay the same.

    Raises:
        InputError: The base's layers do not support it.
    """
    layers = [module for module in functional.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        kind = type(functional.model).__name__
        raise InputError(f"training.gradient_checkpointing is not supported by {kind}; set it to false")
    for layer in layers:
        layer.forward = _recomputed(layer)


def _recomputed(layer: nn.Module) -> Callable[..., Any]:
    original = layer.forward
    slots = [module for module in layer.modules() if all(name in module._buffers for name in SLOT_BUFFERS)]

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        factors = [getattr(slot, name) for slot in slots for name in SLOT_BUFFERS]

        def run(*inputs: Any) -> Any:
            with _holding(slots, inputs[: len(factors)]):
                return original(*inputs[len(factors) :], **kwargs)

        return checkpoint(run, *factors, *args, use_reentrant=False)

    return forward


@contextlib.contextmanager
def _holding(slots: Sequence[nn.Module], factors: Sequence[Tensor]) -> Iterator[None]:
    """Put factors into the slots, and back what was there."""
    places = [(slot._buffers, name) for slot in slots for name in SLOT_BUFFERS]
    before = [buffers[name] for buffers, name in places]
    try:
        for (buffers, name), factor in zip(places, factors, strict=True):
            buffers[name] = factor
        yield
    finally:
        for (buffers, name), old in zip(places, before, strict=True):
            buffers[name] = old
