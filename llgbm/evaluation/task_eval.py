"""Evaluate a generator and its controls on a zoo's tasks: `eval_<name>.json`, per split, per method, per task."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic.dataclasses import dataclass as checked_dataclass

from llgbm.checking import RECORD, read_as
from llgbm.config import ExperimentConfig
from llgbm.evaluation.answering import EvaluationWorker, Outline, load_worker
from llgbm.evaluation.clusters import Clusters, task_clusters
from llgbm.evaluation.setting import EvaluationConfig, Question, Setting
from llgbm.evaluation.statistics import add_holm, bootstrap_interval, compare, gain_recovered, gain_recovered_interval, standard_error
from llgbm.fanout.crew import Engine, Job
from llgbm.fanout.local import Local
from llgbm.files import hash_json, read_json
from llgbm.metrics import EXACT_MATCH, TITLES
from llgbm.progress import ProgressCallback, Tally
from llgbm.scoring import Score
from llgbm.zoo.base import BaseIdentity

REFERENCE, FOREIGN = "generated", "foreign"
"""The method that is compared with every other, and the one that is in its absence."""


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
        """What each task's answers are worth by its metric."""
        return [score.mean_mark for score in self.scores[split][method]]

    def by_wording(self, split: str, method: str) -> list[Float[np.ndarray, "W n"]]:
        """What each task's answers are worth, for each of its wordings and each of its n examples."""
        scores = self.scores[split][method]
        counts = self.wordings.get(split, [1] * len(scores))
        return [score.marks.double().view(count, -1).numpy() for score, count in zip(scores, counts, strict=True)]

    def per_example(self, split: str, method: str) -> list[Float[np.ndarray, " n"]]:
        """What each task's examples are worth, in the mean over its wordings: other words make no other example."""
        return [marks.mean(0) for marks in self.by_wording(split, method)]

    @property
    def metrics(self) -> list[str]:
        """By which its tasks are judged."""
        return list(dict.fromkeys(question.task.metric for asked in self.questions.values() for question in asked))

    def clusters(self, split: str) -> Clusters:
        """Which of a split's tasks hang together."""
        return task_clusters([question.task.attributes for question in self.questions[split]])

    def to_json(self) -> dict[str, Any]:
        """The document of `eval_<name>.json`."""
        return {
            "splits": {split: {m: self._summary(split, m) for m in methods} for split, methods in self.scores.items()},
            "comparisons": [row for split in self.scores for row in self._comparisons(split)],
            "tasks": [row for split in self.scores for row in self._task_rows(split)],
            "metrics": self.metrics,
            "base": asdict(self.base),
            "config_hash": self.config_hash,
            **({"demonstrations": self.demonstrations} if self.demonstrations else {}),
            **({"fingerprints": self.fingerprints} if self.fingerprints else {}),
            **({"made": self.made} if self.made else {}),
        }

    def _summary(self, split: str, method: str) -> dict[str, Any]:
        """Means over tasks, each of which weighs the same; interval and error over tasks, clustered, or over a single task's examples."""
        scores, marks, examples = self.scores[split][method], self.per_task(split, method), self.per_example(split, method)
        units, clusters = (marks, self.clusters(split)) if len(marks) > 1 else (examples[0], None)
        low, high = bootstrap_interval(units, clusters=clusters)
        gain = None
        if {"base", "teacher"} <= self.scores[split].keys():
            gain = gain_recovered(marks, self.per_task(split, "base"), self.per_task(split, "teacher"))
        return {
            "score": sum(marks) / len(marks),
            "score_stderr": standard_error(units, clusters),
            "low": low,
            "high": high,
            "exact_match": sum(score.exact_match for score in scores) / len(scores),
            "nll": sum(score.nll for score in scores) / len(scores),
            "gain_recovered": gain,
            "tokens_read": sum(score.n_read.double().mean().item() for score in scores) / len(scores),
            "n_tasks": len(scores),
            "n_examples": sum(map(len, examples)),
            **self._worst(split, method),
        }

    def _worst(self, split: str, method: str) -> dict[str, float]:
        """Where tasks were asked for in several wordings: the score in each task's worst one, mean over tasks."""
        worded = self.by_wording(split, method)
        if all(len(marks) == 1 for marks in worded):
            return {}
        worst = [marks.mean(1).min().item() for marks in worded]
        return {"score_worst": sum(worst) / len(worst)}

    def _comparisons(self, split: str) -> list[dict[str, Any]]:
        """The generated (else the foreign) adapters against each other method: clustered interval and test, p by Holm over the methods."""
        reference = next((method for method in (REFERENCE, FOREIGN) if method in self.scores[split]), None)
        if reference is None:
            return []
        marks = {method: self.per_example(split, method) for method in self.scores[split]}
        clusters = self.clusters(split)
        rows = [
            {"split": split, "method": reference, "other": other, **asdict(compare(marks[reference], marks[other], clusters=clusters))}
            for other in marks
            if other != reference
        ]
        add_holm(rows)
        if {"base", "teacher"} <= marks.keys():
            generated, base, teacher = (self.per_task(split, method) for method in (reference, "base", "teacher"))
            for row in rows:
                if row["other"] == "teacher":
                    row["gain_recovered_interval"] = gain_recovered_interval(generated, base, teacher, clusters=clusters)
        return rows

    def _task_rows(self, split: str) -> list[dict[str, Any]]:
        rows, worth = [], {method: self.per_example(split, method) for method in self.scores[split]}
        for i, question in enumerate(self.questions[split]):
            scores = {method: of_method[i] for method, of_method in self.scores[split].items()}
            marks = {method: of_method[i].tolist() for method, of_method in worth.items()}
            n_examples = len(next(iter(marks.values())))
            plain = question.task.metric == EXACT_MATCH and n_examples == len(next(iter(scores.values())))
            rows.append(
                {
                    "split": split,
                    "task": question.task.name,
                    "domain": question.task.domain,
                    "attributes": question.task.attributes,
                    "n_examples": n_examples,
                    "metric": question.task.metric,
                    "score": {method: score.mean_mark for method, score in scores.items()},
                    "exact_match": {method: score.exact_match for method, score in scores.items()},
                    "nll": {method: score.nll for method, score in scores.items()},
                    "exact": {method: "".join("01"[bool(x)] for x in score.exact) for method, score in scores.items()},
                    **({} if plain else {"marks": marks}),
                }
            )
        return rows


def evaluate(
    checkpoint: str | Path | None,
    data_dir: str | Path,
    config: EvaluationConfig | None = None,
    cache_dir: str | Path | None = None,
    progress: ProgressCallback | None = None,
    engine: Engine | None = None,
) -> Evaluation:
    """Score every method on every split of a zoo.

    Args:
        checkpoint: Run folder, generator folder or checkpoint; None evaluates the methods that need no generator.
        data_dir: The zoo.
        config: Choices; defaults evaluate everything.
        cache_dir: Keeps the multi-task LoRA and the scores of all methods but foreign ones.
        progress: Called with the tasks scored so far and to score, over all methods.
        engine: Where methods are scored; in this process by default. Workers read checkpoint and zoo, and write to `cache_dir`.

    Raises:
        InputError: What is asked for does not exist or does not fit together, or a likelihood is not finite.
    """
    config = config or EvaluationConfig()
    job = Job(load_worker, (checkpoint, data_dir, config, cache_dir), cache_dir)
    evaluation, outline = _perform(job, _run_hash(checkpoint) or _hash_of(config), progress, engine or Local())
    return replace(evaluation, made=outline.made)


def run_evaluation(setting: Setting, config_hash: str | None = None, progress: ProgressCallback | None = None) -> Evaluation:
    """`evaluate` for what is loaded already; `config_hash` names the run, by default it is that of the evaluation's choices."""
    return _perform(Job(EvaluationWorker, (setting,)), config_hash or _hash_of(setting.config), progress, Local())[0]


def _hash_of(config: EvaluationConfig) -> str:
    return hash_json(asdict(config))[:8]


def _perform(job: Job, config_hash: str, progress: ProgressCallback | None, engine: Engine) -> tuple[Evaluation, Outline]:
    """Have every part scored, in whatever order."""
    with engine.crew(job) as crew:
        outline: Outline = crew.ask("survey")
        work = {f"{method} on {', '.join(splits)}": (method, splits) for method, splits in outline.parts}
        tally = Tally(len(outline.methods) * sum(map(len, outline.questions.values())), progress, crew.figures)
        found: dict[tuple[str, str], list[Score]] = {}
        for name, scores in crew.map("score", work.items(), tally.tick):
            found |= {(split, work[name][0]): of_split for split, of_split in scores.items()}
            tally.add(sum(map(len, scores.values())))
    evaluation = Evaluation(
        base=outline.base,
        config_hash=config_hash,
        questions=outline.questions,
        wordings=outline.wordings,
        scores={split: {method: found[split, method] for method in outline.methods} for split in outline.questions},
        fingerprints=outline.fingerprints,
        demonstrations=outline.demonstrations,
    )
    return evaluation, outline


@checked_dataclass(frozen=True, config=RECORD)
class EvaluationDocument:
    """What an `eval_<name>.json` holds at least."""

    splits: dict[str, dict[str, dict[str, Any]]]
    """Split -> method -> figures."""
    tasks: tuple[dict[str, Any], ...]
    base: dict[str, Any]
    config_hash: str
    metrics: tuple[str, ...]
    """By which its tasks are judged."""
    comparisons: tuple[dict[str, Any], ...] = ()


def measure(document: Mapping[str, Any]) -> str:
    """What the scores of an `eval_<name>.json` are, as a heading says it."""
    metrics = document["metrics"]
    if len(metrics) == 1:
        return TITLES[metrics[0]]
    return f"score by each task's metric ({', '.join(TITLES[name] for name in metrics)})"


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """Read an `eval_<name>.json`; InputError when it is something else."""
    document = read_json(path)
    read_as(EvaluationDocument, document, f"{path}: not an evaluation, write one with 'llgbm evaluate'")
    return document


def run_folder(checkpoint: str | Path) -> Path | None:
    """The run a checkpoint belongs to: the folder with the run's `config.yaml`, the checkpoint's own or one above; None outside runs."""
    folder = Path(checkpoint)
    return next((f for f in (folder, folder.parent, folder.parent.parent) if (f / "config.yaml").is_file()), None)


def _run_hash(checkpoint: str | Path | None) -> str | None:
    run = None if checkpoint is None else run_folder(checkpoint)
    return ExperimentConfig.load(run / "config.yaml").get_hash() if run else None
