"""What a worker does that evaluates: it holds a setting, says what there is to ask, and scores a method at a time, split by split."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from llgbm import models
from llgbm.errors import InputError
from llgbm.evaluation.asking import parse_split
from llgbm.evaluation.clusters import joint_attributes
from llgbm.evaluation.made import how_made
from llgbm.evaluation.methods import METHODS, choose_methods
from llgbm.evaluation.setting import EvaluationConfig, Question, Setting, load_setting
from llgbm.fanout.crew import Tick
from llgbm.files import hash_file, hash_json, read_json, write_json
from llgbm.functional_lora.virtual import virtual_tokens
from llgbm.judging import judge_answers
from llgbm.scoring import KEPT, Score
from llgbm.zoo.base import BaseIdentity, content_of
from llgbm.zoo.folder import Teacher

CACHE_FORMAT = 8
WITHOUT_EFFECT = ("splits", "methods", "predictor", "soft_prompt", "foreign", "adapters_at_once", "base")
"""Choices that decide what is scored or how fast, not what a method scores; the base's content stands in the key."""


@dataclass(frozen=True)
class Outline:
    """What is known of an evaluation before anything is scored."""

    base: BaseIdentity
    """As it runs."""
    methods: list[str]
    questions: dict[str, list[Question]]
    """For each split; their tasks without examples, and a mixture's with the attributes of its parts."""
    wordings: dict[str, list[int]]
    fingerprints: dict[str, dict[str, float]]
    demonstrations: dict[str, dict[str, float]]
    made: dict[str, Any]
    parts: list[tuple[str, tuple[str, ...]]]
    """A method, and the splits that one worker scores together."""


class EvaluationWorker:
    """A worker of `evaluate`.

    Args:
        setting: Base, zoo and networks.
        checkpoint: The generator's place, if it lies on disk.

    Raises:
        InputError: What is asked for does not exist or does not fit together.
    """

    def __init__(self, setting: Setting, checkpoint: str | Path | None = None) -> None:
        self.setting, self.checkpoint = setting, checkpoint
        self.methods, splits = choose_methods(setting), setting.splits()
        self.questions = {split: setting.questions(split) for split in splits}
        self.worded = {split: [q.reworded(*setting.condition_kind) for q in asked] for split, asked in self.questions.items()}
        asked = [teacher for of_split in self.questions.values() for teacher in self._taught(of_split)]
        pool = setting.pool if any(METHODS[method].uses_pool for method in self.methods) else []
        setting.zoo.check([*dict.fromkeys([*asked, *pool])])  # scores that were kept stand under the hashes of the manifest

    @property
    def identity(self) -> str:
        """Hash of base, zoo and networks."""
        return hash_json(self.made["inputs"])

    @cached_property
    def made(self) -> dict[str, Any]:
        """How the evaluation is made."""
        return how_made(self.setting, self.checkpoint)

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, float]]:
        """With a predictor, for each split: mean cosine to the teachers' fingerprints, predicted and of the pool's mean."""
        taught = [] if self.setting.predictor is None else [split for split, asked in self.questions.items() if self._taught(asked)]
        return {split: self._fingerprint_cosines(split) for split in taught}

    def survey(self) -> Outline:
        """What there is to score."""
        setting = self.setting
        shown = self.questions if "few_shot" in self.methods else ()
        return Outline(
            base=setting.base.identity,
            methods=self.methods,
            questions={split: [self._outlined(question) for question in asked] for split, asked in self.questions.items()},
            wordings={split: [len(group) for group in worded] for split, worded in self.worded.items()},
            fingerprints=self.fingerprints,
            demonstrations={split: setting.demonstrations_shown([question.task for question in self.questions[split]]) for split in shown},
            made=self.made,
            parts=list(self._parts()),
        )

    def score(self, method: str, splits: Sequence[str], tick: Tick | None = None) -> dict[str, list[Score]]:
        """For each split one score per question."""
        if METHODS[method].needs_predictor:
            assert self.fingerprints or self.setting.untaught  # every worker measures them in the same company
        scores, done = dict[str, list[Score]](), 0
        for split in splits:
            same = next((other for other in scores if self._answers_alike(method, split, other)), None)
            scores[split] = self._score_wordings(method, split) if same is None else scores[same]
            done += len(scores[split])
            if tick is not None:
                tick(done, split=split, method=method)
        return scores

    def _outlined(self, question: Question) -> Question:
        """The question without its task's examples; what a mixture shares with other tasks is what its parts do."""
        task = question.task
        shared = joint_attributes([self.setting.zoo.suite[part] for part in task.parts])
        return replace(question, task=replace(task, train=(), test=(), further_tests={}, attributes={**task.attributes, **shared}))

    def _parts(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every method's splits, together where one is answered as another, or the method trains something first."""
        covered: set[tuple[str, str]] = set()
        for split in self.questions:
            for method in self.methods:
                if (split, method) in covered:
                    continue
                trains = METHODS[method].trains
                part = tuple(s for s in self.questions if trains or s == split or self._answers_alike(method, s, split))
                covered |= {(s, method) for s in part}
                yield method, part

    def _answers_alike(self, method: str, split: str, other: str) -> bool:
        """Whether two splits ask the same tasks, for a method that does not read how a question is worded."""
        return not METHODS[method].reads_condition and self._asked(split) == self._asked(other)

    def _asked(self, split: str) -> list[Any]:
        return [(q.task.name, q.task.test, len(group)) for q, group in zip(self.questions[split], self.worded[split], strict=True)]

    def _score_wordings(self, method: str, split: str) -> list[Score]:
        """One score per question, over all its wordings; what does not read a wording is asked once and counts for each."""
        asked, setting = self.worded[split], self.setting
        if not METHODS[method].reads_condition:
            scores = _score_cached(method, self.questions[split], setting)
            return [Score.join([score] * len(group)) if len(group) > 1 else score for score, group in zip(scores, asked, strict=True)]
        scores = iter(_score_cached(method, [one for group in asked for one in group], setting))
        found = [[next(scores) for _ in group] for group in asked]
        return [Score.join(group) if len(group) > 1 else group[0] for group in found]

    def _taught(self, questions: Sequence[Question]) -> list[Teacher]:
        """The teachers of the questions' tasks: of all, or of none where the split has none."""
        return [self.setting.teachers[q.task.name] for q in questions if q.task.name in self.setting.teachers]

    def _fingerprint_cosines(self, split: str) -> dict[str, float]:
        """How near the predicted fingerprints are to those of the questions' teachers, and how near the pool's mean is to them."""
        setting, questions = self.setting, self.questions[split]
        actual = setting.fingerprints(self._taught(questions))
        mean = setting.fingerprints(setting.pool).mean(0, keepdim=True)
        return {
            "predicted": torch.cosine_similarity(setting.predict(questions), actual).mean().item(),
            "pool_mean": torch.cosine_similarity(mean, actual).mean().item(),
        }


def load_worker(
    checkpoint: str | Path | None, data_dir: str | Path, config: EvaluationConfig, cache_dir: str | Path | None
) -> EvaluationWorker:
    """A worker on what lies on disk; arguments and faults as `load_setting`."""
    return EvaluationWorker(load_setting(checkpoint, data_dir, config, cache_dir), checkpoint)


def _score_cached(method: str, questions: Sequence[Question], setting: Setting) -> list[Score]:
    """Score, or read what an earlier evaluation of the same method on the same tasks kept; of a foreign one no hash tells what it is."""
    if setting.cache_dir is None or METHODS[method].needs_foreign:
        return _score(method, questions, setting)
    path = setting.cache_dir / f"scores-{method}-{_key(method, questions, setting)[:16]}.json"
    if path.is_file():
        return [Score(*map(torch.tensor, parts)) for parts in read_json(path)]
    scores = _score(method, questions, setting)
    write_json(path, [[getattr(score, part).tolist() for part in KEPT] for score in scores])
    return scores


def _key(method: str, questions: Sequence[Question], setting: Setting) -> str:
    """Hash of everything a method depends on that is not foreign."""
    chosen = METHODS[method]
    config = {k: v for k, v in asdict(setting.config).items() if k not in WITHOUT_EFFECT}
    zoo = [setting.zoo.suite_entry.hash, [setting.teachers[q.task.name].hash for q in questions if q.task.name in setting.teachers]]
    pool = [t.hash for t in setting.pool] if chosen.uses_pool else []
    condition = [setting.encoder.content_id, *setting.condition_kind, questions[0].split] if chosen.reads_condition else []
    tasks = [q.task.name for q in questions] + sorted({parse_split(q.split)[2] for q in questions} - {""})
    framing = [setting.framing.end, setting.framing.max_length, setting.framing.cut_left]
    base = content_of(setting.base.identity)
    networks = [[setting.network_hashes[name], asdict(getattr(setting, name).spec), _code_of_networks()] for name in chosen.networks]
    return hash_json([CACHE_FORMAT, method, base, framing, config, zoo, pool, condition, tasks, networks])


@cache
def _code_of_networks() -> list[str]:
    """Hashes of what makes an adapter of weights: other code may make another one of the same."""
    return [hash_file(path) for path in sorted(Path(models.__file__).parent.glob("*.py"))]


def _score(method: str, questions: Sequence[Question], setting: Setting) -> list[Score]:
    scores: list[Score] = []
    for start in range(0, len(questions), setting.config.adapters_at_once):
        asked = questions[start : start + setting.config.adapters_at_once]
        attempt = METHODS[method].attempt(setting, asked)
        virtual = contextlib.nullcontext() if attempt.virtual is None else virtual_tokens(setting.functional, attempt.virtual)
        with virtual:
            scores += judge_answers(setting.functional, attempt.factors, attempt.batches, [setting.judge(one.task) for one in asked])
    for question, score in zip(questions, scores, strict=True):
        if not math.isfinite(score.nll):
            raise InputError(
                f"method {method}, task {question.task.name}: the log-likelihood is {score.nll}; "
                "its adapter or the base overflows, use another checkpoint or dtype float32"
            )
    return scores
