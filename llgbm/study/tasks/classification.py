"""Tasks whose answers are classes: transformers' head on an encoder or a decoder; accuracy, and F1 where a task has it."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llgbm.study.backbone import Backbone
from llgbm.study.config import StudyConfig
from llgbm.study.parts import Part, Parts, cut_parts
from llgbm.study.task import Batch, Row, Scored, Start, StudyTask, in_batches, pad_rows
from llgbm.study.tasks.glue import GLUE, GlueTask, Labeled

BASELINE_SEED = 0
START_TOLERANCE = 0.25
"""Nats around ln(classes): a head drawn at random leans to a class by about as much."""


@dataclass(frozen=True)
class ClassificationTask(StudyTask):
    """One task of GLUE for one base."""

    name: str
    backbone: Backbone
    parts: Parts[Labeled]
    glue: GlueTask
    max_length: int
    metric: ClassVar[str] = "accuracy"

    @classmethod
    def load(cls, name: str, backbone: Backbone, config: StudyConfig) -> "ClassificationTask":
        """Read a task's files, or get it from the hub. InputError as `GlueTask.read` and `cut_parts`."""
        train, test = GLUE[name].read(config.data)
        return cls(name, backbone, cut_parts(name, train, test, config.sizes), GLUE[name], config.sizes.max_length)

    def model(self, seed: int) -> PreTrainedModel:
        return self.backbone.classifier(self.glue.n_labels, seed)

    def head(self, model: nn.Module) -> tuple[str, ...]:
        assert isinstance(model, PreTrainedModel)
        own = dict(model.named_children())
        return tuple(name for name, module in own.items() if name != model.base_model_prefix and any(True for _ in module.parameters()))

    def rows(self, part: Part) -> list[Row]:
        tokenize = partial(encoder_ids if self.backbone.is_encoder else self._asked, self.backbone.tokenizer)
        return [{"input_ids": tokenize(example.texts, self.max_length), "labels": example.label} for example in self.parts[part]]

    def _asked(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[int]:
        return decoder_ids(tokenizer, texts, max_length, self.glue.frame)

    def collate(self, rows: Sequence[Row]) -> Batch:
        return {**pad_rows(self.backbone, rows), "labels": torch.tensor([row["labels"] for row in rows])}

    @property
    def loss(self) -> Any:
        return class_loss

    def score(self, model: nn.Module, part: Part) -> Scored:
        rows = self.rows(part)
        logits = torch.stack(in_batches(self, model, rows, lambda outputs, batch: list(outputs.logits.float().cpu())))
        labels = torch.tensor([row["labels"] for row in rows])
        return self._scored(logits.argmax(1).tolist(), part, float(F.cross_entropy(logits, labels)))

    def _scored(self, said: Sequence[int], part: Part, nll: float | None = None) -> Scored:
        from sklearn.metrics import f1_score

        labels = [example.label for example in self.parts[part]]
        scores = [float(one == label) for one, label in zip(said, labels, strict=True)]
        metrics = {"accuracy": float(np.mean(scores))}
        if self.glue.with_f1:
            metrics["f1"] = float(f1_score(labels, said, zero_division=0.0))  # pyright: ignore[reportArgumentType]
        return Scored(metrics if nll is None else {**metrics, "nll": nll}, scores)

    def example_ids(self, part: Part) -> list[str]:
        return [example.id for example in self.parts[part]]

    def baselines(self) -> dict[str, dict[str, float]]:
        known, count = [example.label for example in self.parts.train], len(self.parts.test)
        (majority, _), *_ = Counter(known).most_common(1)
        drawn = random.Random(BASELINE_SEED).choices(sorted(set(self.glue.labels.values())), k=count)
        return {"majority": self._scored([majority] * count, "test").metrics, "random": self._scored(drawn, "test").metrics}

    def chance(self) -> float:
        counts = Counter(example.label for example in self.parts.validation)
        return max(counts.values()) / len(self.parts.validation)

    def expected_start(self, examples: int) -> Start:
        return Start(math.log(self.glue.n_labels), START_TOLERANCE, f"ln({self.glue.n_labels} classes)")

    def shuffled(self, seed: int) -> "ClassificationTask":
        train = self.parts.train
        labels = random.Random(seed).sample([example.label for example in train], len(train))
        dealt = [replace(example, label=label) for example, label in zip(train, labels, strict=True)]
        return replace(self, parts=self.parts.with_train(dealt))


def class_loss(outputs: Any, labels: Int[Tensor, " B"], num_items_in_batch: Any = None) -> Float[Tensor, ""]:
    """Cross-entropy in float32, whatever the model's precision; over several batches of a step, the mean of all their examples."""
    total = F.cross_entropy(outputs.logits.float(), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def encoder_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[int]:
    """A text or pair as the tokenizer puts it together, the longer one cut."""
    return tokenizer(texts[0], texts[1] if len(texts) > 1 else None, truncation=True, max_length=max_length).input_ids


def decoder_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, frame: Sequence[str]) -> list[int]:
    """The texts in a frame, which ends with a question, so that the last token has read everything; the longest text is cut."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    whole = tokenizer("a").input_ids
    start = whole[:1] if whole[0] == tokenizer.bos_token_id else []
    pieces, read = [ids(piece) for piece in frame], [ids(f" {text.strip()}") for text in texts]
    room = max(0, max_length - len(start) - sum(map(len, pieces)))
    while sum(map(len, read)) > room:
        max(read, key=len).pop()
    inside = [token for piece, text in zip(pieces, read, strict=False) for token in (*piece, *text)]
    return [*start, *inside, *pieces[-1]]
