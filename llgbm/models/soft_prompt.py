"""The soft prompt: from a set of embedded texts to virtual tokens that the frozen base reads before its input; no adapter.

Letters: K tasks, N vectors per task, E embedding width, H trunk width, V virtual tokens, D hidden size of the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llgbm.models.encoder import TextEncoder
from llgbm.models.reader import SIZES, ConditionReader
from llgbm.zoo.base import Base, BaseIdentity


@dataclass
class SoftPromptSpec:
    """Everything `from_pretrained` needs to rebuild a writer of soft prompts."""

    hidden_size: int
    """Width of the base's embeddings."""
    embedding_dim: int
    tokens: int = 8
    """Virtual tokens of a prompt."""
    size: str = "s"
    slots: int = 1
    encoder: str = "hashing"
    encoder_id: str = ""
    """Content of the encoder it was trained with."""
    condition: str = "description"
    max_prompts: int = 8
    base: BaseIdentity | None = None
    """For which base it writes."""
    trained_on: list[str] = field(default_factory=list)
    """Tasks whose examples it was trained on."""
    validated_on: list[str] = field(default_factory=list)
    """Tasks held back to choose the checkpoint."""

    def emitted(self) -> int:
        """Numbers in one prompt."""
        return self.tokens * self.hidden_size


class SoftPromptWriter(ConditionReader):
    """Reads the embedded texts of K tasks, writes V virtual tokens for each: a learned constant, and deviations that start at zero.

    Source: prompt tuning, Lester et al. 2021, arXiv:2104.08691, with a reader in the place of one prompt per task.
    """

    kind, trained_by, spec_type = "soft_prompt", "llgbm train --network soft_prompt", SoftPromptSpec
    spec: SoftPromptSpec
    scale: Tensor

    def __init__(self, spec: SoftPromptSpec, encoder: TextEncoder | None = None) -> None:
        super().__init__(spec, encoder)
        self.front, self.trunk = self.new_front(), self.new_trunk()
        self.place = nn.Embedding(spec.tokens, SIZES[spec.size].hidden)
        self.head = nn.Linear(SIZES[spec.size].hidden, spec.hidden_size, bias=False)
        nn.init.zeros_(self.head.weight)
        self.constant = nn.Parameter(torch.randn(spec.tokens, spec.hidden_size))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"], again: tuple[Tensor, Tensor] | None = None) -> Any:
        """One prompt [K V D] per row, float32, in units of the base's embeddings; masked vectors do not count.

        With `again`, other sets of vectors and their mask, returns (prompts, what was read, what is read again).
        """
        read = self.front(embeddings, mask)
        prompts = self.scale * (self.constant + self.head(self.trunk(read[:, :, None] + self.place.weight)).float())
        return prompts if again is None else (prompts, read, self.front(*again))

    @torch.no_grad()
    def fit_scale(self, embeddings: Float[Tensor, "vocabulary D"]) -> None:
        """Take the size of virtual tokens from the base's embeddings: their RMS."""
        self.scale.copy_(embeddings.float().square().mean().sqrt())

    def write(self, texts: Sequence[Sequence[str]], base: Base | None = None) -> Float[Tensor, "K V D"]:
        """The prompts for tasks that are asked for by these texts."""
        return self.answer([list(group) for group in texts], None, base)
