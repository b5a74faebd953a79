"""Evaluate a generator and its controls on a zoo's tasks: `eval_<name>.json`, per split, per method, per task."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass as checked_dataclass

from llgbm.checking import RECORD, read_as
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.evaluation.asking import parse_split
from llgbm.evaluation.clusters import Clusters, task_clusters
from llgbm.evaluation.made import how_made
from llgbm.evaluation.methods import METHODS, choose_methods
from llgbm.evaluation.setting import EvaluationConfig, Question, Setting, load_setting
from llgbm.evaluation.statistics import add_holm, bootstrap_interval, compare, gain_recovered, gain_recovered_interval, standard_error
from llgbm.files import hash_json, read_json, write_json
from llgbm.functional_lora.virtual import virtual_tokens
from llgbm.matching import score_answers
from llgbm.progress import ProgressCallback
from llgbm.scoring import KEPT, Score
from llgbm.zoo.base import BaseIdentity, content_of

REFERENCE, FOREIGN = "generated", "foreign"
"""The method that is compared with every other, and the one that is in its absence."""
CACHE_FORMAT = 4
WITHOUT_EFFECT = ("splits", "methods", "predictor", "soft_prompt", "foreign", "adapters_at_once", "base")
"""Choices that decide what is scored or how fast, not what a method scores; the base's content stands in the key."""


@dataclass
class Evaluation:
    """What was scored: for each split, its questions, and for each method one score per question."""

    base: BaseIdentity
    """The base as it ran."""
    config_hash: str
    questions: dict[str, list[Question]] = field(default_factory=dict)
    wordings: dict[str, list[int]] = field(default_factory=dict)
    """For each split, in how many wordings each of its tasks is asked for; a task's score is of all of them, one after another."""
    scores: dict[str, dict[str, list[Score]]] = field(default_factory=dict)
    fingerprints: dict[str, dict[str, float]] = field(default_factory=dict)
    """With a predictor, for each split: mean cosine to the teachers' fingerprints, predicted and of the pool's mean."""

    demonstrations: dict[str, dict[str, float]] = field(default_factory=dict)
    """With few_shot, for each split: how many were asked for, how many fit on average, before how many examples fewer did."""
    made: dict[str, Any] = field(default_factory=dict)
    """How it was made, where it is a zoo's and a run's as they lie on disk."""

    def per_task(self, split: str, method: str) -> list[float]:
        """Exact match of each task."""
        return [score.exact_match for score in self.scores[split][method]]

    def clusters(self, split: str) -> Clusters:
        """Which of a split's tasks hang together."""
        return task_clusters([question.task.attributes for question in self.questions[split]])

    def to_json(self) -> dict[str, Any]:
        """The document of `eval_<name>.json`."""
        return {
            "splits": {split: {m: self._summary(split, m) for m in methods} for split, methods in self.scores.items()},
            "comparisons": [row for split in self.scores for row in self._comparisons(split)],
            "tasks": [row for split in self.scores for row in self._task_rows(split)],
            "base": asdict(self.base),
            "config_hash": self.config_hash,
            **({"demonstrations": self.demonstrations} if self.demonstrations else {}),
            **({"fingerprints": self.fingerprints} if self.fingerprints else {}),
            **({"made": self.made} if self.made else {}),
        }

    def _summary(self, split: str, method: str) -> dict[str, Any]:
        """Means over tasks, each of which weighs the same; interval and error over tasks, clustered, or over a single task's examples."""
        scores, exact = self.scores[split][method], self.per_task(split, method)
        units, clusters = (exact, self.clusters(split)) if len(exact) > 1 else (scores[0].exact.double().numpy(), None)
        low, high = bootstrap_interval(units, clusters=clusters)
        gain = None
        if {"base", "teacher"} <= self.scores[split].keys():
            gain = gain_recovered(exact, self.per_task(split, "base"), self.per_task(split, "teacher"))
        return {
            "exact_match": sum(exact) / len(exact),
            "exact_match_stderr": standard_error(units, clusters),
            "low": low,
            "high": high,
            "nll": sum(score.nll for score in scores) / len(scores),
            "gain_recovered": gain,
            "tokens_read": sum(score.n_read.double().mean().item() for score in scores) / len(scores),
            "n_tasks": len(scores),
            "n_examples": sum(map(len, scores)),
            **self._worst(split, method),
        }

    def _worst(self, split: str, method: str) -> dict[str, float]:
        """Where tasks were asked for in several wordings: exact match in each task's worst one, mean over tasks."""
        counts = self.wordings.get(split, [])
        if max(counts, default=1) == 1:
            return {}
        of_tasks = zip(self.scores[split][method], counts, strict=True)
        worst = [min(part.double().mean().item() for part in score.exact.chunk(count)) for score, count in of_tasks]
        return {"exact_match_worst": sum(worst) / len(worst)}

    def _comparisons(self, split: str) -> list[dict[str, Any]]:
        """The generated (else the foreign) adapters against each other method: clustered interval and test, p by Holm over the methods."""
        reference = next((method for method in (REFERENCE, FOREIGN) if method in self.scores[split]), None)
        if reference is None:
            return []
        exact = {method: [score.exact.double().numpy() for score in scores] for method, scores in self.scores[split].items()}
        clusters = self.clusters(split)
        rows = [
            {"split": split, "method": reference, "other": other, **asdict(compare(exact[reference], exact[other], clusters=clusters))}
            for other in exact
            if other != reference
        ]
        add_holm(rows)
        if {"base", "teacher"} <= exact.keys():
            generated, base, teacher = (self.per_task(split, method) for method in (reference, "base", "teacher"))
            for row in rows:
                if row["other"] == "teacher":
                    row["gain_recovered_interval"] = gain_recovered_interval(generated, base, teacher, clusters=clusters)
        return rows

    def _task_rows(self, split: str) -> list[dict[str, Any]]:
        rows = []
        for i, question in enumerate(self.questions[split]):
            scores = {method: of_method[i] for method, of_method in self.scores[split].items()}
            rows.append(
                {
                    "split": split,
                    "task": question.task.name,
                    "domain": question.task.domain,
                    "attributes": question.task.attributes,
                    "n_examples": len(next(iter(scores.values()))),
                    "exact_match": {method: score.exact_match for method, score in scores.items()},
                    "nll": {method: score.nll for method, score in scores.items()},
                    "exact": {method: "".join("01"[bool(x)] for x in score.exact) for method, score in scores.items()},
                }
            )
        return rows


def evaluate(
    checkpoint: str | Path | None,
    data_dir: str | Path,
    config: EvaluationConfig | None = None,
    cache_dir: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Score every method on every split of a zoo.

    Args:
        checkpoint: Run folder, generator folder or checkpoint; None evaluates the methods that need no generator.
        data_dir: The zoo.
        config: Choices; defaults evaluate everything.
        cache_dir: Keeps the multi-task LoRA and the scores of methods that do not depend on the generator.
        progress: Called with the tasks scored so far and to score, over all methods.

    Raises:
        InputError: What is asked for does not exist or does not fit together, or a likelihood is not finite.
    """
    setting = load_setting(checkpoint, data_dir, config or EvaluationConfig(), cache_dir)
    return replace(run_evaluation(setting, _run_hash(checkpoint), progress), made=how_made(setting, checkpoint))


def run_evaluation(setting: Setting, config_hash: str | None = None, progress: ProgressCallback | None = None) -> Evaluation:
    """`evaluate` for what is loaded already; `config_hash` names the run, by default it is that of the evaluation's choices."""
    methods, splits = choose_methods(setting), setting.splits()
    evaluation = Evaluation(setting.base.identity, config_hash or hash_json(asdict(setting.config))[:8])
    questions = evaluation.questions = {split: setting.questions(split) for split in splits}
    evaluation.wordings = {split: [len(q.reworded(*setting.condition_kind)) for q in of_split] for split, of_split in questions.items()}
    asked = [setting.teachers[question.task.name] for of_split in questions.values() for question in of_split]
    pool = setting.pool if any(METHODS[method].uses_pool for method in methods) else []
    setting.zoo.check([*dict.fromkeys([*asked, *pool])])  # scores that were kept stand under the hashes of the manifest
    total, done = len(methods) * sum(map(len, questions.values())), 0
    for split in splits:
        if setting.predictor is not None:
            evaluation.fingerprints[split] = _fingerprint_cosines(setting, questions[split])
        if "few_shot" in methods:
            evaluation.demonstrations[split] = setting.demonstrations_shown([question.task for question in questions[split]])
        evaluation.scores[split] = {}
        for method in methods:
            known = _same_answers(method, split, evaluation)
            if known is None:
                known = _score_wordings(method, questions[split], setting)
            evaluation.scores[split][method] = known
            done += len(questions[split])
            if progress:
                progress(done, total, split=split, method=method)
    return evaluation


@checked_dataclass(frozen=True, config=RECORD)
class EvaluationDocument:
    """What an `eval_<name>.json` holds at least."""

    splits: dict[str, dict[str, dict[str, Any]]]
    """Split -> method -> figures."""
    tasks: tuple[dict[str, Any], ...]
    base: dict[str, Any]
    config_hash: str
    comparisons: tuple[dict[str, Any], ...] = ()


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """Read an `eval_<name>.json`; InputError when it is something else."""
    document = read_json(path)
    read_as(EvaluationDocument, document, f"{path}: not an evaluation, write one with 'llgbm evaluate'")
    return document


def run_folder(checkpoint: str | Path) -> Path | None:
    """The run a checkpoint belongs to: the folder with the run's `config.yaml`, the checkpoint's own or one above; None outside runs."""
    folder = Path(checkpoint)
    return next((f for f in (folder, folder.parent, folder.parent.parent) if (f / "config.yaml").is_file()), None)


def _fingerprint_cosines(setting: Setting, questions: Sequence[Question]) -> dict[str, float]:
    """How near the predicted fingerprints are to those of the questions' teachers, and how near the pool's mean is to them."""
    actual = setting.fingerprints([setting.teachers[q.task.name] for q in questions])
    mean = setting.fingerprints(setting.pool).mean(0, keepdim=True)
    return {
        "predicted": torch.cosine_similarity(setting.predict(questions), actual).mean().item(),
        "pool_mean": torch.cosine_similarity(mean, actual).mean().item(),
    }


def _run_hash(checkpoint: str | Path | None) -> str | None:
    run = None if checkpoint is None else run_folder(checkpoint)
    return ExperimentConfig.load(run / "config.yaml").get_hash() if run else None


def _same_answers(method: str, split: str, evaluation: Evaluation) -> list[Score] | None:
    """Scores from another split with the same tasks, for a method that does not read how a question is worded."""
    if METHODS[method].reads_condition:
        return None
    asked = [(q.task.name, q.task.test, n) for q, n in zip(evaluation.questions[split], evaluation.wordings[split], strict=True)]
    for other, scores in evaluation.scores.items():
        known = [(q.task.name, q.task.test, n) for q, n in zip(evaluation.questions[other], evaluation.wordings[other], strict=True)]
        if method in scores and known == asked:
            return scores[method]
    return None


def _score_wordings(method: str, questions: Sequence[Question], setting: Setting) -> list[Score]:
    """One score per question, over all its wordings; what does not read a wording is asked once and counts for each."""
    asked = [question.reworded(*setting.condition_kind) for question in questions]
    if not METHODS[method].reads_condition:
        scores = _score_cached(method, questions, setting)
        return [Score.join([score] * len(group)) if len(group) > 1 else score for score, group in zip(scores, asked, strict=True)]
    scores = iter(_score_cached(method, [one for group in asked for one in group], setting))
    found = [[next(scores) for _ in group] for group in asked]
    return [Score.join(group) if len(group) > 1 else group[0] for group in found]


def _score_cached(method: str, questions: Sequence[Question], setting: Setting) -> list[Score]:
    """Score, or read what an earlier evaluation of the same method on the same tasks kept (methods without a network of ours)."""
    if setting.cache_dir is None or METHODS[method].reads_network:
        return _score(method, questions, setting)
    path = setting.cache_dir / f"scores-{method}-{_key(method, questions, setting)[:16]}.json"
    if path.is_file():
        return [Score(*map(torch.tensor, parts)) for parts in read_json(path)]
    scores = _score(method, questions, setting)
    write_json(path, [[getattr(score, part).tolist() for part in KEPT] for score in scores])
    return scores


def _key(method: str, questions: Sequence[Question], setting: Setting) -> str:
    """Hash of everything a method that needs no network of ours depends on."""
    chosen = METHODS[method]
    config = {k: v for k, v in asdict(setting.config).items() if k not in WITHOUT_EFFECT}
    zoo = [setting.zoo.suite_entry.hash, [setting.teachers[q.task.name].hash for q in questions]]
    pool = [t.hash for t in setting.pool] if chosen.uses_pool else []
    condition = [setting.encoder.content_id, *setting.condition_kind, questions[0].split] if chosen.reads_condition else []
    tasks = [q.task.name for q in questions] + sorted({parse_split(q.split)[2] for q in questions} - {""})
    framing = [setting.framing.end, setting.framing.max_length, setting.framing.cut_left]
    base = content_of(setting.base.identity)
    return hash_json([CACHE_FORMAT, method, base, framing, config, zoo, pool, condition, tasks])


def _score(method: str, questions: Sequence[Question], setting: Setting) -> list[Score]:
    scores: list[Score] = []
    for start in range(0, len(questions), setting.config.adapters_at_once):
        asked = questions[start : start + setting.config.adapters_at_once]
        attempt = METHODS[method].attempt(setting, asked)
        virtual = contextlib.nullcontext() if attempt.virtual is None else virtual_tokens(setting.functional, attempt.virtual)
        with virtual:
            scores += score_answers(setting.functional, attempt.factors, attempt.batches, setting.framing)
    for question, score in zip(questions, scores, strict=True):
        if not math.isfinite(score.nll):
            raise InputError(
                f"method {method}, task {question.task.name}: the log-likelihood is {score.nll}; "
                "its adapter or the base overflows, use another checkpoint or dtype float32"
            )
    return scores
