"""Does one adapter composed of two do both tasks? Every way to compose, scored on both tasks of every pair, in batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llgbm.compositionality import AdapterComposer
from llgbm.dataset import TokenBatch, concatenate
from llgbm.delta import DeltaEngine
from llgbm.errors import InputError
from llgbm.evaluation.clusters import Clusters, joint_attributes, task_clusters
from llgbm.evaluation.setting import Setting
from llgbm.evaluation.statistics import add_holm, bootstrap_interval, compare
from llgbm.lora.factors import LoRAFactors, combine
from llgbm.lora.merging import AdapterMerger
from llgbm.matching import score_answers
from llgbm.progress import ProgressCallback
from llgbm.scoring import Score, score_each
from llgbm.zoo.folder import Teacher
from llgbm.zoo.suite import Task

AVERAGE = "average"
"""The way every other is compared with."""
PAIRS_AT_ONCE = 8
"""Pairs composed and scored together, so memory does not grow with their number."""
SEARCH_GRID = (0.25, 0.5, 0.75, 1.0, 1.25)
SEARCH_EXAMPLES = 8
"""Train examples of each task on which weights are chosen."""
SEARCH_STEP = 0.125
"""Distance of the second, finer grid's neighbors."""
DENSITY = 0.5
TARGET_ADAPTERS = 4


@dataclass(frozen=True)
class Pair:
    """Two teachers, and the teacher trained on both tasks where there is one; names as in the delta cache."""

    one: str
    two: str
    whole: str | None = None


@dataclass
class Chunk:
    """Some pairs, and what ways of composing need."""

    pairs: Sequence[Pair]
    evaluator: "CompositionEvaluator"
    seed: int

    def factors(self, part: str) -> list[LoRAFactors]:
        """K = 1 each: of `one`, `two` or `whole`."""
        return [self.evaluator.factors(getattr(pair, part)) for pair in self.pairs]

    def both(self) -> list[LoRAFactors]:
        """K = 2 each."""
        return [LoRAFactors.stack(list(two)) for two in zip(self.factors("one"), self.factors("two"), strict=True)]

    def tasks(self) -> list[tuple[Task, Task]]:
        return [(self.evaluator.task(pair.one), self.evaluator.task(pair.two)) for pair in self.pairs]


@dataclass(frozen=True)
class CompositionMethod:
    """A registered way to get one adapter for two tasks."""

    compose: Callable[[Chunk], list[LoRAFactors] | None]
    """The chunk's adapters, K = 1 each; None is the base."""
    source: str
    random: bool = False
    """Whether the seed changes it."""
    needs: str = ""
    """`generator`, `whole` (a mixture teacher), `deltas`, or nothing."""


class CompositionEvaluator:
    """Composes and scores.

    Args:
        setting: Base, zoo, and perhaps a generator.
        teachers: Name -> teacher, for every name in pairs.
        deltas: Name -> fingerprint; for retrieval by target.
        engine: Measures composed adapters' fingerprints; of the same configuration as `deltas`.
    """

    def __init__(
        self,
        setting: Setting,
        teachers: Mapping[str, Teacher],
        deltas: Mapping[str, np.ndarray] | None = None,
        engine: DeltaEngine | None = None,
    ) -> None:
        self.setting, self.teachers, self.engine = setting, teachers, engine
        self.deltas = deltas or {}
        names = list(teachers)
        self._rows = {name: i for i, name in enumerate(names)}
        self._all = setting.zoo.factors([teachers[name] for name in names])
        self.merger = AdapterMerger(setting.functional.shapes)
        self._search_tokens: dict[tuple[str, int], TokenBatch] = {}

    def factors(self, name: str) -> LoRAFactors:
        """One teacher, K = 1."""
        return self._all.select([self._rows[name]])

    def task(self, name: str) -> Task:
        """The task a teacher was trained on."""
        return self.setting.zoo.suite[self.teachers[name].task]

    def evaluate(
        self, pairs: Sequence[Pair], ways: Sequence[str] = (), seeds: Sequence[int] = (0, 1, 2), progress: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Score ways of composing on both tasks of every pair.

        Args:
            pairs: Of teachers of different tasks.
            ways: Names in `COMPOSITIONS`; all that are possible by default.
            seeds: Ways that draw anything are repeated with each, and averaged.
            progress: Called with pairs done and to do, over all ways.

        Returns:
            `rows`: per pair and way, exact match and NLL on each task, and what is lost against the task's own teacher; `ways`: means
            over pairs of tasks, each the mean over its teachers' seeds, with bootstrap intervals; `comparisons`: each way minus
            `average`, paired by pair of tasks, p-values by Holm. Pairs are clustered by the attributes of either task, or by the task.

        Raises:
            InputError: No pairs, or a way that is unknown or lacks what it needs.
        """
        if not pairs:
            raise InputError("no pairs of adapters to compose; give at least one")
        chosen = self._possible(ways, pairs)
        plan = [(way, seed) for way in chosen for seed in (seeds if COMPOSITIONS[way].random else seeds[:1])]
        found: dict[str, list[list[dict[str, float]]]] = {way: [] for way in chosen}
        done, total = 0, len(plan) * len(pairs)
        for way, seed in plan:
            rows = []
            for start in range(0, len(pairs), PAIRS_AT_ONCE):
                chunk = Chunk(pairs[start : start + PAIRS_AT_ONCE], self, seed)
                adapters = COMPOSITIONS[way].compose(chunk)
                rows += self._score(adapters, chunk)
                done += len(chunk.pairs)
                if progress:
                    progress(done, total, way=way)
            found[way].append(rows)
        n_seeds = {way: len(runs) for way, runs in found.items()}
        return self._document(pairs, {way: _mean_rows(runs) for way, runs in found.items()}, n_seeds)

    def interpolate(self, pairs: Sequence[Pair], shares: Sequence[float], progress: ProgressCallback | None = None) -> list[dict[str, Any]]:
        """Exact match and NLL on both tasks along (1 - t) one + t two, exact in weight changes; a row per pair and t."""
        rows = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            chunk = Chunk(pairs[start : start + PAIRS_AT_ONCE], self, 0)
            both = chunk.both()
            for share in shares:
                scored = self._score([combine(two, [1 - share, share]) for two in both], chunk)
                rows += [{**asdict(pair), "share": share, **row} for pair, row in zip(chunk.pairs, scored, strict=True)]
            if progress:
                progress(start + len(chunk.pairs), len(pairs), way="interpolation")
        return rows

    def fingerprints(self, way: str, pairs: Sequence[Pair], seed: int = 0) -> np.ndarray:
        """Measured fingerprints of the composed adapters, [pairs, F] float32."""
        assert self.engine is not None
        parts = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            adapters = COMPOSITIONS[way].compose(Chunk(pairs[start : start + PAIRS_AT_ONCE], self, seed))
            assert adapters is not None
            deltas = self.engine.deltas(LoRAFactors.stack(adapters))
            parts.append(deltas.reshape(len(deltas), -1))
        return np.concatenate(parts)

    def negative_log_likelihood(self, adapters: LoRAFactors, chunk_pair: Pair, per_adapter: int, seed: int) -> np.ndarray:
        """Mean NLL of each of `per_adapter` candidate adapters on train examples of both tasks of one pair, nats per token."""
        batch = concatenate([self._shown(name, seed) for name in (chunk_pair.one, chunk_pair.two)], self.setting.pad_token_id)
        scores = score_each(self.setting.functional, adapters, [batch] * per_adapter, self.setting.pad_token_id)
        return np.array([score.nll for score in scores])

    def _document(self, pairs: Sequence[Pair], by_way: Mapping[str, list[dict[str, float]]], n_seeds: Mapping[str, int]) -> dict[str, Any]:
        rows = {way: [{**row, **_lost(by_way, i, row)} for i, row in enumerate(found)] for way, found in by_way.items()}
        of_tasks: dict[tuple[str, str], list[int]] = {}
        for i, pair in enumerate(pairs):
            of_tasks.setdefault((self.teachers[pair.one].task, self.teachers[pair.two].task), []).append(i)
        by_tasks = {way: [_mean_row([found[i] for i in same]) for same in of_tasks.values()] for way, found in rows.items()}
        clusters = self._clusters([pairs[same[0]] for same in of_tasks.values()])
        summary = []
        for way, found in by_tasks.items():
            low, high = bootstrap_interval([row["exact_match"] for row in found], clusters=clusters)
            means = {key: float(np.mean([row[key] for row in found])) for key in ("exact_match", "worse", "nll")}
            lost = [np.mean([row["lost_one"], row["lost_two"]]) for row in found if "lost_one" in row]
            summary.append({"way": way, **means, "low": low, "high": high, "lost": float(np.mean(lost)) if lost else None})
            summary[-1] |= {"n_pairs": len(found), "n_seeds": n_seeds[way], "source": COMPOSITIONS[way].source}
        told = [{"way": way, **asdict(pair), **row} for way, found in rows.items() for pair, row in zip(pairs, found, strict=True)]
        return {"ways": summary, "comparisons": _against_average(by_tasks, clusters), "rows": told}

    def _clusters(self, pairs: Sequence[Pair]) -> Clusters:
        """Pairs whose first, or second, tasks share an attribute, or are the same where tasks have none."""
        return task_clusters([joint_attributes([self.task(pair.one), self.task(pair.two)]) for pair in pairs])

    def _shown(self, name: str, seed: int) -> TokenBatch:
        """Some train examples of a task, drawn by seed."""
        if (name, seed) not in self._search_tokens:
            task, rng = self.task(name), np.random.default_rng([seed, *name.encode()])
            examples = self.setting.framing.of_task(task, "train")
            chosen = rng.choice(len(examples), size=min(SEARCH_EXAMPLES, len(examples)), replace=False)
            self._search_tokens[name, seed] = self.setting.framing.batch([examples[i] for i in chosen])
        return self._search_tokens[name, seed]

    def _score(self, adapters: Sequence[LoRAFactors] | None, chunk: Chunk) -> list[dict[str, float]]:
        """Each pair's adapter on the test examples of both tasks."""
        batches = [self.setting.tokens(task) for two in chunk.tasks() for task in two]
        factors = None if adapters is None else LoRAFactors.stack(list(adapters)).select([i for i in range(len(adapters)) for _ in "12"])
        scores = score_answers(self.setting.functional, factors, batches, self.setting.framing)
        return [_row(one, two) for one, two in zip(scores[::2], scores[1::2], strict=True)]

    def _possible(self, ways: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
        unknown = next((way for way in ways if way not in COMPOSITIONS), None)
        if unknown is not None:
            raise InputError(f"unknown way to compose {unknown!r}; choose from {', '.join(COMPOSITIONS)}")
        have = {"": True, "generator": self.setting.generator is not None, "whole": all(pair.whole for pair in pairs)}
        have["deltas"] = have["whole"] and bool(self.deltas)
        missing = next((way for way in ways if not have[COMPOSITIONS[way].needs]), None)
        if missing is not None:
            what = {"generator": "a generator (--run)", "whole": "mixture teachers", "deltas": "deltas of mixture teachers"}
            raise InputError(f"way {missing} needs {what[COMPOSITIONS[missing].needs]}; give it, or leave the way out")
        return list(ways) or [name for name, way in COMPOSITIONS.items() if have[way.needs]]


def _merge(method: str, weights: tuple[float, float], **options: Any) -> Callable[[Chunk], list[LoRAFactors]]:
    def compose(chunk: Chunk) -> list[LoRAFactors]:
        merger = chunk.evaluator.merger
        return [merger.merge(two, list(weights), method, seed=chunk.seed, **options) for two in chunk.both()]

    return compose


def _weight_search(chunk: Chunk) -> list[LoRAFactors]:
    """The weights with the least NLL on a few train examples of both tasks: on a coarse grid, then on a fine one around the best.

    Departs from LoraHub, which searches without a grid and adds 0.05 (|w1| + |w2|): near the optimum that outweighs the likelihood.
    """
    chosen = []
    for pair, two in zip(chunk.pairs, chunk.both(), strict=True):
        best = _best_weights(chunk, pair, two, [(u, v) for u in SEARCH_GRID for v in SEARCH_GRID])
        steps = (-SEARCH_STEP, 0.0, SEARCH_STEP)
        chosen.append(combine(two, list(_best_weights(chunk, pair, two, [(best[0] + u, best[1] + v) for u in steps for v in steps]))))
    return chosen


def _best_weights(chunk: Chunk, pair: Pair, two: LoRAFactors, grid: Sequence[tuple[float, float]]) -> tuple[float, float]:
    candidates = LoRAFactors.stack([combine(two, list(weights)) for weights in grid])
    return grid[int(np.argmin(chunk.evaluator.negative_log_likelihood(candidates, pair, len(grid), chunk.seed)))]


def _delta_target(chunk: Chunk) -> list[LoRAFactors]:
    """Seen single teachers whose deltas sum nearest to the mixture's."""
    evaluator = chunk.evaluator
    candidates = [name for name, teacher in evaluator.teachers.items() if teacher.split == "seen" and name in evaluator.deltas]
    in_memory = {name: evaluator.factors(name) for name in candidates}
    composer = AdapterComposer({name: evaluator.deltas[name] for name in candidates}, evaluator.setting.functional.shapes, in_memory)
    targets = [evaluator.deltas[pair.whole] for pair in chunk.pairs if pair.whole is not None]
    return [composer.compose_by_delta_target(target, TARGET_ADAPTERS).factors for target in targets]


def _generated(chunk: Chunk) -> list[LoRAFactors]:
    """One adapter from both descriptions as one condition."""
    generator = chunk.evaluator.setting.generator
    assert generator is not None
    factors = generator.generate([[one.description, two.description] for one, two in chunk.tasks()], None, chunk.evaluator.setting.base)
    return [factors.select([i]) for i in range(factors.n_adapters)]


def _generated_average(chunk: Chunk) -> list[LoRAFactors]:
    """The mean of the adapters generated from each description."""
    generator = chunk.evaluator.setting.generator
    assert generator is not None
    factors = generator.generate([[task.description] for two in chunk.tasks() for task in two], None, chunk.evaluator.setting.base)
    return [combine(factors.select([2 * i, 2 * i + 1]), [0.5, 0.5]) for i in range(len(chunk.pairs))]


COMPOSITIONS: dict[str, CompositionMethod] = {
    "base": CompositionMethod(lambda chunk: None, "no adapter"),
    "first_teacher": CompositionMethod(lambda chunk: chunk.factors("one"), "LoRA, arXiv:2106.09685"),
    "second_teacher": CompositionMethod(lambda chunk: chunk.factors("two"), "LoRA, arXiv:2106.09685"),
    "mixture_teacher": CompositionMethod(lambda chunk: chunk.factors("whole"), "trained on both tasks", needs="whole"),
    AVERAGE: CompositionMethod(_merge("product", (0.5, 0.5)), "exact mean of weight changes; model soups, arXiv:2203.05482"),
    "sum": CompositionMethod(_merge("product", (1.0, 1.0)), "exact sum of weight changes; task arithmetic, arXiv:2212.04089"),
    "linear": CompositionMethod(_merge("linear", (1.0, 1.0)), "PEFT; A and B apart"),
    "cat": CompositionMethod(_merge("cat", (1.0, 1.0)), "PEFT; the same product as sum"),
    "svd": CompositionMethod(_merge("svd", (1.0, 1.0)), "PEFT; the sum, cut to the teachers' rank"),
    "ties": CompositionMethod(_merge("ties", (1.0, 1.0), density=DENSITY), "arXiv:2306.01708"),
    "dare_linear": CompositionMethod(_merge("dare_linear", (1.0, 1.0), density=DENSITY), "arXiv:2311.03099", random=True),
    "dare_ties": CompositionMethod(_merge("dare_ties", (1.0, 1.0), density=DENSITY), "arXiv:2311.03099", random=True),
    "weight_search": CompositionMethod(_weight_search, "LoraHub, arXiv:2307.13269, on a grid", random=True),
    "delta_target": CompositionMethod(_delta_target, "non-negative sum of zoo deltas nearest to the mixture's", needs="deltas"),
    "generated": CompositionMethod(_generated, "this package, both descriptions as one condition", needs="generator"),
    "generated_average": CompositionMethod(_generated_average, "this package, one adapter per description, averaged", needs="generator"),
}
"""Every way `llgbm compose` knows, in the order tables show them."""


def _row(one: Score, two: Score) -> dict[str, float]:
    """`exact_match` is the mean of both tasks, `worse` the lower of the two."""
    exact = (one.exact_match, two.exact_match)
    return {
        "exact_one": exact[0],
        "exact_two": exact[1],
        "exact_match": sum(exact) / 2,
        "worse": min(exact),
        "nll": (one.nll + two.nll) / 2,
    }


def _mean_rows(runs: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Per pair, the mean over seeds."""
    return [_mean_row(same) for same in zip(*runs, strict=True)]


def _mean_row(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _lost(by_way: Mapping[str, list[dict[str, float]]], i: int, row: dict[str, float]) -> dict[str, float]:
    """What a row of pair `i` lacks of each task's own teacher, where these were scored."""
    if not {"first_teacher", "second_teacher"} <= by_way.keys():
        return {}
    own = {"one": by_way["first_teacher"][i], "two": by_way["second_teacher"][i]}
    return {f"lost_{end}": teacher[f"exact_{end}"] - row[f"exact_{end}"] for end, teacher in own.items()}


def _against_average(by_way: Mapping[str, list[dict[str, float]]], clusters: Clusters) -> list[dict[str, Any]]:
    """Each way minus the average, paired by pair of tasks; nothing for a single pair, which has nothing to be paired with."""
    if AVERAGE not in by_way or len(by_way[AVERAGE]) < 2:
        return []
    exact = {way: [[row["exact_match"]] for row in found] for way, found in by_way.items()}
    rows = [
        {"way": way, "other": AVERAGE, **asdict(compare(found, exact[AVERAGE], clusters=clusters, unit="pair"))}
        for way, found in exact.items()
        if way != AVERAGE
    ]
    add_holm(rows)
    return rows
