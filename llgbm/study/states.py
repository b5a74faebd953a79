"""Hidden states of probes while a model is trained, streamed to disk: pooled over real tokens, and their cosine to the base's.

Letters: P probes, L layers, D width, T tokens.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llgbm.dataset import NO_LABEL, padded
from llgbm.files import hash_json, write_bytes
from llgbm.study.backbone import inner_model

ROWS = 16
"""Probes per forward pass."""


class Probes:
    """Probe texts of one task as tokens, and the base's states on them once `remember` has seen it."""

    def __init__(self, sequences: Sequence[Sequence[int]], pad_token_id: int) -> None:
        batch = padded([list(ids) for ids in sequences], [[NO_LABEL] * len(ids) for ids in sequences], pad_token_id)
        self.ids, self.mask = batch.input_ids, batch.attention_mask
        self.hash = hash_json([list(ids) for ids in sequences])
        self.base: list[list[Float[Tensor, "n D"]]] = []
        """The base's states at real tokens, by block of probes and layer, in the model's precision."""

    def remember(self, model: nn.Module) -> None:
        """Keep this model's states as the base's."""
        self.base = [[state[mask] for state in states] for states, mask in self._blocks(model)]

    def measure(self, model: nn.Module) -> dict[str, Tensor]:
        """`pooled` (L+1, P, D), means of states over real tokens, and `cosine` (L+1, P), mean cosine to the base's; float32."""
        pooled, cosine = [], []
        for (states, mask), base in zip(self._blocks(model), self.base, strict=True):
            pooled.append(torch.stack([mean_over(state.float(), mask) for state in states]))
            cosine.append(torch.stack([_cosine(state, known, mask) for state, known in zip(states, base, strict=True)]))
        return {"pooled": torch.cat(pooled, 1), "cosine": torch.cat(cosine, 1)}

    @torch.no_grad()
    def _blocks(self, model: nn.Module) -> Any:
        """Per block of probes: the embeddings' and each layer's states, and which tokens are real; on the CPU."""
        inner, was_training = inner_model(model), model.training
        model.eval()
        for start in range(0, len(self.ids), ROWS):
            ids, mask = self.ids[start : start + ROWS], self.mask[start : start + ROWS]
            longest = int(mask.sum(1).max())
            ids, mask = ids[:, :longest], mask[:, :longest]
            out = inner(input_ids=ids.to(inner.device), attention_mask=mask.to(inner.device), output_hidden_states=True)
            yield [state.cpu() for state in out.hidden_states], mask.bool()
        model.train(was_training)


class StatesRecorder(TrainerCallback):
    """Records a model's states before training, every so many steps, and at its end.

    Args:
        probes: On which; the model as training begins is their base.
        every: Steps between two recordings.
        place: Step -> file.
    """

    def __init__(self, probes: Probes, every: int, place: Callable[[int], Path]) -> None:
        self.probes, self.every, self.place = probes, every, place

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.probes.remember(kwargs["model"])
        self._record(0, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._record(state.global_step, kwargs["model"])

    def _record(self, step: int, model: nn.Module) -> None:
        content = save(self.probes.measure(model), metadata={"probes": self.probes.hash})
        write_bytes(self.place(step), content)


def mean_over(states: Float[Tensor, "P T D"], mask: Bool[Tensor, "P T"]) -> Float[Tensor, "P D"]:
    """Means over real tokens."""
    return (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


def _cosine(states: Float[Tensor, "P T D"], base: Float[Tensor, "n D"], mask: Bool[Tensor, "P T"]) -> Float[Tensor, " P"]:
    """Mean over real tokens of the cosine to the base's state of the same token."""
    found = torch.zeros(mask.shape)
    found[mask] = F.cosine_similarity(states[mask].float(), base.float(), dim=-1)
    return found.sum(1) / mask.sum(1)
