"""The output embedding by chunks of tokens: logits of a large vocabulary are never all there at once, nor their gradients.

Shapes: n chosen tokens, m of them at a time, D hidden size, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

LOGITS_BYTES = 1 << 26
"""Logits larger than this, in float32, come by chunks of at most so many bytes."""
LARGE_VOCABULARY = 1 << 14
"""With more tokens than this, logits come by chunks however few they are: what is kept of them is then always small."""


@dataclass(frozen=True)
class ChunkedLogits:
    """Logits of n tokens that are computed when they are looked at, from what stands in front of the head."""

    states: Float[Tensor, "n D"]
    head: Callable[[Tensor], Tensor]
    """[m, D] -> [m, V], with all the model does to its logits."""
    at_once: int
    """Tokens of a chunk."""
    normalized: bool = False
    """Whether they are log-probabilities."""

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice) -> Float[Tensor, "m V"]:
        logits = self.head(self.states[rows])
        return logits.float().log_softmax(-1) if self.normalized else logits

    def select(self, index: Int[Tensor, " m"]) -> "ChunkedLogits":
        """Those of some tokens."""
        return replace(self, states=self.states[index])

    def repeat(self, count: int, columns: int = 1) -> "ChunkedLogits":
        """All of them, several times over, as a tensor does it."""
        return replace(self, states=self.states.repeat(count, columns))

    def log_softmax(self) -> "ChunkedLogits":
        """Their log-probabilities, float32."""
        return replace(self, normalized=True)

    def detach(self) -> "ChunkedLogits":
        """The same, cut from the graph."""
        return replace(self, states=self.states.detach())

    def chunks(self) -> list[slice]:
        """Consecutive tokens, `at_once` in each chunk."""
        return [slice(start, start + self.at_once) for start in range(0, len(self), self.at_once)]

    @staticmethod
    def join(parts: Sequence["ChunkedLogits"]) -> "ChunkedLogits":
        """The logits of several, one after another; all are of one base."""
        return replace(parts[0], states=torch.cat([part.states for part in parts]))


Logits = Tensor | ChunkedLogits
"""[n, V]: there already, or by chunks."""


def by_token(function: Callable[..., Tensor], logits: Logits, *others: Tensor | ChunkedLogits) -> Tensor:
    """`function(logits, *others)`, a row of values for each token, without all logits at once.

    Args:
        function: Takes the logits of some tokens and the rows of `others` for them; each token's values depend on its own rows only.
        logits: Of n tokens. Where they come by chunks, gradients reach them alone, and each token has one value then.
        others: Of the same n tokens.
    """
    if isinstance(logits, ChunkedLogits):
        if torch.is_grad_enabled() and logits.states.requires_grad:
            found: Any = _Chunked.apply(logits.states, logits, function, others)
            return found
        return torch.cat([function(logits[rows], *(other[rows] for other in others)) for rows in logits.chunks()])
    chunked = next((other for other in others if isinstance(other, ChunkedLogits)), None)
    if chunked is None:
        return function(logits, *others)
    return torch.cat([function(logits[rows], *(other[rows] for other in others)) for rows in chunked.chunks()])


class _Chunked(torch.autograd.Function):
    """Each token's value and its slope in front of the head, chunk by chunk; the backward pass only scales the slopes.

    A value depends on its own token alone, so the slopes do not wait for what the loss does with the values. Cf. Liger-Kernel's
    fused linear cross-entropy, arXiv:2410.10989.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, logits: ChunkedLogits, function: Callable[..., Tensor], others: tuple[Any, ...]) -> Tensor:
        values, slopes = [], []
        for rows in logits.chunks():
            with torch.enable_grad():
                part = states[rows].detach().requires_grad_()
                value = function(replace(logits, states=part)[:], *(other[rows] for other in others))
                slopes.append(torch.autograd.grad(value.sum(), part)[0])
            values.append(value.detach())
            del value
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grad[:, None] * slopes).to(slopes.dtype), None, None, None


@dataclass
class _NoStates(ModelOutput):
    """What a backbone returns, as far as causal language models look at it."""

    last_hidden_state: Tensor | None = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    cross_attentions: Any = None
    router_logits: Any = None


class _NoBackbone(nn.Module):
    """Stands for the layers where only the head is wanted."""

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        self.output = _NoStates(last_hidden_state=like.new_zeros(1, 1, width))

    def forward(self, *args: Any, **kwargs: Any) -> _NoStates:
        return self.output


def head_only(model: Any, head_name: str) -> nn.Module | None:
    """A shell around a causal language model's head that has no layers; None where the layers are not one module apart from the head."""
    prefix = model.base_model_prefix
    if prefix not in model._modules or head_name.startswith(f"{prefix}."):
        return None
    shell = copy.copy(model)
    config = model.config.get_text_config()
    shell._modules = {**model._modules, prefix: _NoBackbone(config.hidden_size, next(model.parameters()))}
    return shell
