"""What training, checks and searches need of a task, whatever kind it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llgbm.dataset import NO_LABEL, pad_id, padded
from llgbm.study.backbone import Backbone
from llgbm.study.parts import Part, Parts

Row = dict[str, Any]
"""One tokenized example: `input_ids`, `labels`, and what else its kind of task needs."""
Batch = dict[str, Tensor]
BATCH = 16
"""Examples per forward pass where nothing is trained."""


@dataclass(frozen=True)
class Scored:
    """How a model did on one part of a task."""

    metrics: dict[str, float]
    scores: list[float]
    """The primary metric per example, in the order of the part."""


@dataclass(frozen=True)
class Start:
    """The loss that training should start with."""

    loss: float
    """In nats."""
    tolerance: float
    reason: str


class StudyTask(ABC):
    """One task for one base."""

    name: str
    backbone: Backbone
    parts: Parts[Any]
    metric: ClassVar[str]
    """The primary metric."""

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A model to train: a copy of the base with the head that the task needs, drawn by the seed."""

    def head(self, model: nn.Module) -> tuple[str, ...]:
        """Modules that LoRA trains as a whole, since the base has none of them."""
        return ()

    @abstractmethod
    def rows(self, part: Part) -> list[Row]:
        """The part's examples as tokens, in their order."""

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """Rows as one padded batch."""

    @abstractmethod
    def score(self, model: nn.Module, part: Part) -> Scored:
        """How a model answers the part's examples."""

    @abstractmethod
    def example_ids(self, part: Part) -> list[str]:
        """Which examples the scores are of."""

    @abstractmethod
    def baselines(self) -> dict[str, dict[str, float]]:
        """Name -> metrics on the test examples of what needs no training: answers that know the train split at most."""

    @abstractmethod
    def chance(self) -> float:
        """What a model that knows nothing of the inputs reaches on the validation examples, in the primary metric."""

    @abstractmethod
    def expected_start(self, examples: int) -> "Start":
        """What `training.starting_loss` of a fresh model on so many train examples should be, and why."""

    @abstractmethod
    def shuffled(self, seed: int) -> "StudyTask":
        """The task with the answers of its train examples dealt out anew, so that there is nothing to learn that holds elsewhere."""

    def with_parts(self, parts: Parts[Any]) -> "StudyTask":
        """The same task with other examples."""
        return replace(self, parts=parts)  # pyright: ignore[reportArgumentType]

    @property
    def loss(self) -> Any:
        """Trainer's `compute_loss_func`; None takes the model's own."""
        return None

    def probes(self, count: int) -> list[list[int]]:
        """The tokens of the first test examples, on which representations are compared."""
        return [row["input_ids"] for row in self.rows("test")[:count]]


def pad_rows(backbone: Backbone, rows: Sequence[Row]) -> Batch:
    """`input_ids` and `attention_mask`, padded on the right."""
    ids = [row["input_ids"] for row in rows]
    batch = padded(ids, [[NO_LABEL] * len(row) for row in ids], pad_id(backbone.tokenizer))
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


@torch.no_grad()
def in_batches(task: StudyTask, model: nn.Module, rows: Sequence[Row], read: Callable[[Any, Batch], Sequence[Any]]) -> list[Any]:
    """What `read(outputs, batch)` gives for each row, in the order of rows; those of one length share a forward pass.

    The model is in eval mode meanwhile.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    found: dict[int, Any] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = {key: value.to(device) for key, value in task.collate([rows[i] for i in chosen]).items()}
        given = {key: value for key, value in batch.items() if key != "labels"}
        found |= dict(zip(chosen, read(model(**given), batch), strict=True))
    model.train(was_training)
    return [found[i] for i in range(len(rows))]
