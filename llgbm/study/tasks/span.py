"""SQuAD 2.0: a span of the context answers, or nothing does; two heads trained jointly, long contexts in overlapping windows; EM and F1."""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from llgbm.dataset import pad_id
from llgbm.errors import InputError
from llgbm.study.backbone import Backbone
from llgbm.study.config import StudyConfig
from llgbm.study.parts import SPLIT_SEED, Part, Parts, cut_parts
from llgbm.study.span_head import SpanModel, collate
from llgbm.study.spans import NONE, Candidate, Window, best_spans, choose_threshold, make_windows
from llgbm.study.squad import Question, check_questions, read_squad
from llgbm.study.squad_metrics import NO_ANSWER, score_answer, squad_metrics
from llgbm.study.tables import read_hub, warn_of_faults
from llgbm.study.task import Batch, Row, Scored, Start, StudyTask, in_batches

SQUAD, HUB = "squad_v2", "rajpurkar/squad_v2"
TRAIN_FILE, TEST_FILE = "train-v2.0.json", "dev-v2.0.json"
TEST_SHARE = 3
"""One article in this many is for tests, where one file holds everything."""
OVERLAP = 4
"""Windows share one token in this many."""
LONGEST_RANDOM = 3
"""Words of a random answer."""
START_TOLERANCE = 0.5
"""Nats: heads drawn at random lean to some tokens by about as much."""


@dataclass(frozen=True)
class SpanTask(StudyTask):
    """SQuAD 2.0 for one base."""

    name: str
    backbone: Backbone
    parts: Parts[Question]
    max_length: int
    metric: ClassVar[str] = "f1"

    @classmethod
    def load(cls, name: str, backbone: Backbone, config: StudyConfig) -> "SpanTask":
        """Read its files, or get it from the hub. InputError as `read_questions` and `cut_parts`."""
        train, test = read_questions(config.squad)
        parts = cut_parts(name, train, test, config.sizes, group=lambda question: question.article)
        return cls(name, backbone, parts, config.sizes.max_length)

    def model(self, seed: int) -> SpanModel:
        inner: Any = self.backbone.copied()
        torch.manual_seed(seed)
        architecture = "encoder" if self.backbone.is_encoder else "decoder"
        model = SpanModel(inner if self.backbone.is_encoder else inner.base_model, architecture, inner.config.hidden_size)
        return model.to(self.backbone.model.device)

    def head(self, model: nn.Module) -> tuple[str, ...]:
        return ("span", "answerable")

    def windows(self, part: Part) -> list[Window]:
        """The part's questions with their contexts, each in one window or more."""
        return make_windows(self.parts[part], self.backbone.tokenizer, self.max_length, self.max_length // OVERLAP)

    def rows(self, part: Part) -> list[Row]:
        """One for each window."""
        return [{"input_ids": window.tokens, "window": window} for window in self.windows(part)]

    def collate(self, rows: Sequence[Row]) -> Batch:
        return collate([row["window"] for row in rows], pad_id(self.backbone.tokenizer))

    def score(self, model: nn.Module, part: Part) -> Scored:
        """Whether there is an answer is decided by the threshold that is best on the validation examples."""
        known = self._candidates(model, "validation")
        threshold = choose_threshold(known, [question.texts for question in self.parts.validation])
        found = known if part == "validation" else self._candidates(model, part)
        return self._scored([candidate.said(threshold) for candidate in found], part)

    def _candidates(self, model: nn.Module, part: Part) -> list[Candidate]:
        rows = self.rows(part)
        logits = in_batches(self, model, rows, _logits)
        starts, ends, answerable = zip(*logits, strict=True)
        return best_spans(self.parts[part], [row["window"] for row in rows], starts, ends, answerable)

    def _scored(self, said: Sequence[str], part: Part) -> Scored:
        answers = [question.texts for question in self.parts[part]]
        return Scored(squad_metrics(said, answers), [score_answer(*pair)[1] for pair in zip(said, answers, strict=True)])

    def example_ids(self, part: Part) -> list[str]:
        return [question.id for question in self.parts[part]]

    def baselines(self) -> dict[str, dict[str, float]]:
        """No answer to anything; the train split's most frequent answer (which may be none as well); some words of the context."""
        count, drawn = len(self.parts.test), random.Random(SPLIT_SEED)
        known = Counter(question.texts[0] if question.texts else NO_ANSWER for question in self.parts.train)
        (majority, _), *_ = known.most_common(1)
        said = {
            "no_answer": [NO_ANSWER] * count,
            "majority": [majority] * count,
            "random": [random_span(question.context, drawn)[0] for question in self.parts.test],
        }
        return {name: self._scored(answers, "test").metrics for name, answers in said.items()}

    def chance(self) -> float:
        return self._scored([NO_ANSWER] * len(self.parts.validation), "validation").metrics["f1"]

    def expected_start(self, examples: int) -> Start:
        windows = self.windows("train")[:examples]
        spans = [math.log(sum(pair is not None for pair in window.offsets)) for window in windows if window.start != NONE]
        reason = "ln(tokens of the context) where there is an answer, and ln(2) for whether there is one"
        return Start(sum(spans) / len(windows) + math.log(2), START_TOLERANCE, reason)

    def shuffled(self, seed: int) -> "SpanTask":
        """Whether there is an answer is dealt out anew, and where there is one it is some words of the context."""
        train, drawn = self.parts.train, random.Random(seed)
        there = drawn.sample([bool(question.answers) for question in train], len(train))
        dealt = [replace(q, answers=(random_span(q.context, drawn),) if has else ()) for q, has in zip(train, there, strict=True)]
        return replace(self, parts=self.parts.with_train(dealt))


def read_questions(source: str | None) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Train and test questions; what is broken is named in the log, and left out.

    Args:
        source: A folder with `train-v2.0.json` and `dev-v2.0.json`; one file, a third of whose articles test; or None for the hub.

    Raises:
        InputError: A file is missing or in another form, or no question can be used.
    """
    if source is None:
        return _from_hub("train"), _from_hub("validation")
    path = Path(source)
    if path.is_dir():
        return _from_file(path / TRAIN_FILE), _from_file(path / TEST_FILE)
    questions = _from_file(path)
    articles = sorted({question.article for question in questions})
    if len(articles) < 2:
        raise InputError(f"{source}: holds one article, {articles[0]!r}, which cannot both train and test; give a file with more")
    tested = set(random.Random(SPLIT_SEED).sample(articles, max(1, len(articles) // TEST_SHARE)))
    halves = [tuple(q for q in questions if (q.article in tested) == test) for test in (False, True)]
    return halves[0], halves[1]


def random_span(context: str, drawn: random.Random) -> tuple[str, int]:
    """Some words of a context, and the character where they begin."""
    words = list(re.finditer(r"\S+", context))
    first = drawn.randrange(len(words))
    last = min(len(words) - 1, first + drawn.randrange(LONGEST_RANDOM))
    return context[words[first].start() : words[last].end()], words[first].start()


def _from_file(path: Path) -> tuple[Question, ...]:
    found = read_squad(path)
    warn_of_faults(str(path), found.faults, len(found.good))
    return found.good


def _from_hub(split: str) -> tuple[Question, ...]:
    table = read_hub(HUB, None, split)
    found = check_questions([row for _, row in table.rows], table.source)
    warn_of_faults(table.source, found.faults, len(found.good))
    return found.good


def _logits(outputs: Any, batch: Batch) -> list[tuple[Any, Any, float]]:
    """Of each window: logits of the start and of the end, and of there being an answer."""
    starts, ends = outputs.start_logits.cpu().numpy(), outputs.end_logits.cpu().numpy()
    return list(zip(starts, ends, outputs.answerable_logits.tolist(), strict=True))
