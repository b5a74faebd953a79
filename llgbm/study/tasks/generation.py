"""MicroZoo's tasks: a decoder reads an input in a frame and writes the answer; exact match."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from llgbm.dataset import NO_LABEL, TokenBatch, pad_id, padded
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.scoring import score
from llgbm.study.backbone import Backbone
from llgbm.study.config import SizesConfig
from llgbm.study.parts import Part, Parts, cut_parts
from llgbm.study.task import Batch, Row, Scored, Start, StudyTask, in_batches
from llgbm.zoo.micro.world import MicroTask, micro_tasks
from llgbm.zoo.suite import Example

TRAIN_EXAMPLES, TEST_EXAMPLES = 256, 200
"""Where sizes ask for all there are: tasks that are made have no end."""
EXAMPLES_SEED = 0
START_TOLERANCE = 0.02
"""Nats between two ways to compute one loss, in bfloat16."""


def micro_names() -> dict[str, MicroTask]:
    """MicroZoo's tasks by name."""
    return {task.name: task for task in micro_tasks()}


@dataclass(frozen=True)
class GenerationTask(StudyTask):
    """One task whose answers are texts."""

    name: str
    backbone: Backbone
    parts: Parts[Example]
    framing: Framing
    metric: ClassVar[str] = "exact_match"

    @classmethod
    def micro(cls, name: str, backbone: Backbone, sizes: SizesConfig) -> "GenerationTask":
        """A task of MicroZoo. InputError when the base is an encoder, which writes nothing."""
        if backbone.is_encoder:
            raise InputError(f"task {name}: its answers are written, and {backbone.name} is an encoder; take mrpc, sst2, rte or squad_v2")
        task = micro_names()[name]
        train = task.examples((sizes.train_examples_for(name) or TRAIN_EXAMPLES) + sizes.validation_examples, EXAMPLES_SEED)
        test = task.examples(sizes.test_examples or TEST_EXAMPLES, EXAMPLES_SEED, test=True)
        return cls(name, backbone, cut_parts(name, train, test, sizes), Framing(backbone.tokenizer, max_length=sizes.max_length))

    def model(self, seed: int) -> PreTrainedModel:
        return self.backbone.copied()

    def rows(self, part: Part) -> list[Row]:
        """Raises InputError where an example is longer than `sizes.max_length`."""
        found = []
        for example in self.parts[part]:
            prompt, answer = self.framing.ids(example)
            found.append({"input_ids": prompt + answer, "labels": [NO_LABEL] * len(prompt) + answer})
        return found

    def collate(self, rows: Sequence[Row]) -> Batch:
        batch = padded([row["input_ids"] for row in rows], [row["labels"] for row in rows], pad_id(self.backbone.tokenizer))
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}

    def score(self, model: nn.Module, part: Part) -> Scored:
        """By teacher forcing: greedy decoding says the answer and ends if and only if each of its tokens is the most likely one."""
        found = in_batches(self, model, self.rows(part), _exact_and_nll)
        scores = [float(exact) for exact, _, _ in found]
        nll = sum(nll for _, nll, _ in found) / sum(count for _, _, count in found)
        return Scored({"exact_match": float(np.mean(scores)), "nll": nll}, scores)

    def example_ids(self, part: Part) -> list[str]:
        return [example.input for example in self.parts[part]]

    def baselines(self) -> dict[str, dict[str, float]]:
        answers = [example.output for example in self.parts.train]
        expected = [example.output for example in self.parts.test]
        (majority, _), *_ = Counter(answers).most_common(1)
        drawn = random.Random(EXAMPLES_SEED).choices(answers, k=len(expected))
        return {
            "majority": {"exact_match": _share(majority == answer for answer in expected)},
            "random": {"exact_match": _share(one == answer for one, answer in zip(drawn, expected, strict=True))},
            "untrained": self.score(self.backbone.model, "test").metrics,
        }

    def chance(self) -> float:
        answers = Counter(example.output for example in self.parts.train)
        (majority, _), *_ = answers.most_common(1)
        constant = _share(majority == example.output for example in self.parts.validation)
        return max(constant, self.score(self.backbone.model, "validation").metrics["exact_match"])

    def expected_start(self, examples: int) -> Start:
        batch = self.framing.batch(self.parts.train[:examples])
        base = score(FunctionalLoRA(self.backbone.copied(), {}), None, batch)
        return Start(float((base.nll_sum / base.n_tokens).mean()), START_TOLERANCE, "the base's own, in nats per token of an answer")

    def shuffled(self, seed: int) -> "GenerationTask":
        train = self.parts.train
        answers = random.Random(seed).sample([example.output for example in train], len(train))
        return replace(self, parts=self.parts.with_train([replace(one, output=a) for one, a in zip(train, answers, strict=True)]))


def _share(right: Any) -> float:
    return float(np.mean([float(one) for one in right]))


def _exact_and_nll(outputs: Any, batch: dict[str, Tensor]) -> list[tuple[bool, float, int]]:
    """Of each row: whether every token of the answer is the most likely one, its negative log-likelihood in nats, its tokens."""
    tokens = TokenBatch(batch["input_ids"], batch["attention_mask"], batch["labels"])
    logits = outputs.logits[:, :-1].float()
    targets, predicts = tokens.labels[:, 1:], tokens.predicts[:, :-1]
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_LABEL, reduction="none").view_as(targets).sum(1)
    exact = ((logits.argmax(-1) == targets) | ~predicts).all(1)
    return list(zip(exact.tolist(), nll.tolist(), predicts.sum(1).tolist(), strict=True))
