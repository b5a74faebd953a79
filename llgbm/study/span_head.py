"""A backbone with two heads that are trained jointly: where the answer is, and whether there is one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers.utils.generic import ModelOutput

from llgbm.study.spans import NONE, Window

Architecture = Literal["decoder", "encoder"]


@dataclass
class SpanOutput(ModelOutput):
    """What the heads say, in float32."""

    loss: Float[Tensor, ""] | None = None
    """Mean cross-entropy of start and end over windows with an answer, plus the mean of the answerability's over all; nats."""
    start_logits: Float[Tensor, "B T"] | None = None
    """The smallest float where there is no context."""
    end_logits: Float[Tensor, "B T"] | None = None
    answerable_logits: Float[Tensor, " B"] | None = None


class SpanModel(nn.Module):
    """Start and end of an answer at each token of the context, and one logit for there being an answer.

    Args:
        backbone: A transformer without a head, such as `AutoModel` loads, adapted or not; its output has `last_hidden_state`.
        architecture: Whether a token sees what follows. An encoder's answerability is read from its first token, a decoder's from its last.
        hidden_size: Of the backbone's states.
    """

    def __init__(self, backbone: nn.Module, architecture: Architecture, hidden_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.architecture = architecture
        self.span = nn.Linear(hidden_size, 2)
        self.answerable = nn.Linear(hidden_size, 1)
        for head in (self.span, self.answerable):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        context_mask: Bool[Tensor, "B T"],
        start_positions: Int[Tensor, " B"] | None = None,
        end_positions: Int[Tensor, " B"] | None = None,
    ) -> SpanOutput:
        """Logits, and a loss where positions are given; NONE is the position in a window without an answer. Padding is on the right."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        spans = self.span(states).masked_fill(~context_mask[..., None], torch.finfo(torch.float32).min)
        start, end = spans.unbind(-1)
        answerable = self.answerable(self._pooled(states, attention_mask)).squeeze(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = _span_loss(start, end, start_positions, end_positions)
            loss = loss + binary_cross_entropy_with_logits(answerable, (start_positions != NONE).float())
        return SpanOutput(loss, start, end, answerable)

    def _pooled(self, states: Float[Tensor, "B T D"], mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        last = mask.sum(1) - 1 if self.architecture == "decoder" else torch.zeros_like(mask[:, 0])
        return states[torch.arange(len(states), device=states.device), last]


def collate(windows: Sequence[Window], pad: int) -> dict[str, Any]:
    """The inputs of `SpanModel`, padded on the right to the longest window."""
    length = max(len(window.tokens) for window in windows)
    tokens = torch.full((len(windows), length), pad)
    mask = torch.zeros(len(windows), length, dtype=torch.long)
    context = torch.zeros(len(windows), length, dtype=torch.bool)
    for row, window in enumerate(windows):
        tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
        mask[row, : len(window.tokens)] = 1
        context[row, : len(window.tokens)] = torch.tensor([pair is not None for pair in window.offsets])
    positions = {"start_positions": [window.start for window in windows], "end_positions": [window.end for window in windows]}
    return {"input_ids": tokens, "attention_mask": mask, "context_mask": context} | {k: torch.tensor(v) for k, v in positions.items()}


def _span_loss(
    start: Float[Tensor, "B T"], end: Float[Tensor, "B T"], starts: Int[Tensor, " B"], ends: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Mean of both ends over windows with an answer; zero, not NaN, where none has one."""
    total = sum(cross_entropy(logits, at, ignore_index=NONE, reduction="sum") for logits, at in ((start, starts), (end, ends)))
    return torch.as_tensor(total) / (2 * (starts != NONE).sum().clamp(min=1))
