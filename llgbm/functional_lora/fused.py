"""The slot where factors of K adapters meet a linear module, the fused operation in it, and the head that computes chosen rows.

Shapes: K adapters, N rows of T tokens, D hidden size, r rank, n chosen rows, V vocabulary.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llgbm.errors import InputError


class Slot(nn.Module):
    """A linear module with room for the factors of K adapters; plain while the placeholders are empty."""

    lora_a: Tensor
    """[K, r, d_in]"""
    lora_b: Tensor
    """[K, r, d_out]: transposed, scaling folded in."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        # Hooks, or a forward that was replaced on the instance (offloading), must run: then the module itself is called.
        hooked = linear._forward_hooks or linear._forward_pre_hooks or "forward" in vars(linear)
        self.fusable = type(linear) in (nn.Linear, Conv1D) and not hooked
        self.register_buffer("lora_a", torch.empty(0), persistent=False)
        self.register_buffer("lora_b", torch.empty(0), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The linear module's; some models ask a projection for its dtype or multiply by its weight themselves."""
        return self.linear.weight  # pyright: ignore[reportReturnType]

    @property
    def bias(self) -> Tensor | None:
        """The linear module's."""
        return self.linear.bias  # pyright: ignore[reportReturnType]

    def forward(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        k = len(self.lora_a)
        if k == 0:
            return self.linear(x)
        if x.shape[:-1].numel() % k:
            raise InputError(
                f"a module of {x.shape[-1]} inputs was given {x.shape[:-1].numel()} tokens for {k} adapters, so it sees only some tokens, "
                "as a routed expert does; leave it out of the target modules"
            )
        x_knd = x.reshape(k, -1, x.shape[-1])
        if self.fusable and x.dtype == self.lora_a.dtype and not torch.is_autocast_enabled(x.device.type):
            weight = self.linear.weight.mT if isinstance(self.linear, Conv1D) else self.linear.weight
            out_kno = FusedLoRA.apply(x_knd, weight, self.linear.bias, self.lora_a, self.lora_b)[0]
        else:
            out_kno = torch.baddbmm(self.linear(x_knd), torch.bmm(x_knd, self.lora_a.mT), self.lora_b)
        return out_kno.view(*x.shape[:-1], -1)


class FusedLoRA(torch.autograd.Function):
    """x W^T + bias + (x A^T) B^T with frozen W, adding into the base GEMM's output, and the same in the backward.

    The layout decides the time: with B as [K, r, d_out] no small product reads a large matrix by columns. Per module of
    320 outputs and 40 adapters of rank 4, one thread, the products with B take 0.4 ms instead of 1.8 ms each.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.bmm(x, a.mT)
        out = nn.functional.linear(x.flatten(0, 1), weight, bias).view(*x.shape[:2], -1)
        return out.baddbmm_(low, b), low

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, a, b = inputs
        ctx.save_for_backward(x, weight, a, b, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_of_low: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b = ctx.needs_input_grad
        grad_low = torch.baddbmm(grad_of_low, grad, b.mT)  # grad_of_low is zero but for second derivatives
        grad_x = torch.baddbmm((grad.flatten(0, 1) @ weight).view_as(x), grad_low, a) if needs_x else None
        grad_a = torch.bmm(grad_low.mT, x) if needs_a else None
        grad_b = torch.bmm(low.mT, grad) if needs_b else None
        return grad_x, None, None, grad_a, grad_b


class SelectedHead(nn.Module):
    """The output embedding applied to selected rows of the flattened hidden states; none by default.

    It stands where the model calls its head, so whatever the model does to logits afterwards still happens.
    """

    rows: Tensor

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.given: Tensor | None = None
        """Apply the head to these instead of what the model hands over."""
        self.is_keeping = False
        self.kept: Tensor | None = None
        self.register_buffer("rows", torch.empty(0, dtype=torch.long), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The head's."""
        return self.head.weight  # pyright: ignore[reportReturnType]

    @property
    def bias(self) -> Tensor | None:
        """The head's; None where it has none."""
        return getattr(self.head, "bias", None)

    def forward(self, hidden: Float[Tensor, "N T D"]) -> Float[Tensor, "n V"]:
        if self.given is not None:
            return self.head(self.given)
        if self.is_keeping:
            self.kept = hidden.flatten(0, 1)[self.rows]
            return hidden.new_zeros(0, 1)
        if isinstance(self.head, Slot) and len(self.rows):  # adapters are told apart by row: select afterwards
            return self.head(hidden).flatten(0, 1)[self.rows]
        return (self.head.linear if isinstance(self.head, Slot) else self.head)(hidden.flatten(0, 1)[self.rows])

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Meanwhile compute no logits, but keep the selected hidden states for `take`."""
        self.is_keeping = True
        try:
            yield
        finally:
            self.is_keeping = False

    def take(self) -> Float[Tensor, "n D"]:
        """What was kept, once."""
        kept, self.kept = self.kept, None
        assert kept is not None  # the model called its head
        return kept
