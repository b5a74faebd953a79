"""Do behaviors add? Geometry of delta fingerprints under composition, and adapters composed by what they do.

A mixture is one adapter trained on the union of two tasks; its parts are the adapters trained on each alone. Every statement
about mixtures stands against a null distribution: the same statistic with random adapters of the parts' domains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from llgbm.delta import DeltaCache
from llgbm.errors import InputError
from llgbm.evaluation.statistics import add_holm
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.merging import AdapterMerger
from llgbm.lora.peft_io import read_adapters
from llgbm.zoo.base import Base
from llgbm.zoo.folder import Teacher, TeacherZoo

NULL_DRAWS = 2000
NEGLIGIBLE = 1e-9
"""Weights below this share of the largest are rounding."""
POINTS = 11
"""Points of an interpolation, both ends included."""


@dataclass(frozen=True)
class Mixture:
    """Names of adapters in a delta cache: one trained on two tasks, and those trained on each."""

    whole: str
    one: str
    two: str


class CompositionExperiment:
    """Tests on fingerprints, which are flattened and compared in float64.

    Args:
        delta_cache: A `DeltaCache`, its folder, or name -> delta.
        groups: Name -> domain; the null draws stand-ins for a part from the part's own domain. Without it, from all adapters.
        seed: Of the null draws.
        n_null: Draws from the null distribution; the smallest p-value is 1 / (n_null + 1).

    Raises:
        InputError: Fewer than four deltas.
    """

    def __init__(
        self,
        delta_cache: DeltaCache | str | Path | Mapping[str, np.ndarray],
        groups: Mapping[str, str] | None = None,
        seed: int = 0,
        n_null: int = NULL_DRAWS,
    ) -> None:
        found = _all_deltas(delta_cache)
        self.deltas = {name: np.asarray(delta, dtype=np.float64).ravel() for name, delta in found.items()}
        if len(self.deltas) < 4:
            raise InputError(f"{len(self.deltas)} deltas are too few to compare compositions with chance; run 'llgbm compute-deltas' first")
        self.groups = dict(groups or dict.fromkeys(self.deltas, ""))
        self.n_null, self.seed = n_null, seed

    def test_additivity(self, mixtures: Sequence[Mixture]) -> dict[str, Any]:
        """Is the mixture's delta nearer to the parts' sum, to their mean, or to one part? And nearer to its own parts than to others?

        Returns:
            `rows`, one per mixture: the cosine to the parts' sum, its null mean and p-value (also by Holm), and the distance to sum,
            mean, first and second part relative to the mixture's length. `overall`: means, the null of the mean cosine, how
            often each is nearest, and Wilcoxon's paired tests between the distances (by Holm).
        """
        rng, rows, nulls = self._rng("additivity"), [], []
        for mixture in self._checked(mixtures):
            whole, one, two = self._vectors(mixture)
            null = np.array([_cosine(whole, a + b) for a, b in self._stand_ins(mixture, rng)])
            nulls.append(null)
            observed = _cosine(whole, one + two)
            ways = {"sum": one + two, "mean": (one + two) / 2, "one": one, "two": two}
            distances = {name: _distance(whole, way) for name, way in ways.items()}
            nearest = min(distances, key=distances.__getitem__)
            rows.append(
                {**_names(mixture), "cosine": observed, "null_cosine": float(null.mean()), "p_value": _p_value(observed, null)}
                | {"distance": distances, "nearest": nearest}
            )
        add_holm(rows)
        distance = {way: np.array([row["distance"][way] for row in rows]) for way in ("sum", "mean", "one", "two")}
        distance["nearer part"] = np.minimum(distance["one"], distance["two"])
        tests = [_wilcoxon(distance, a, b) for a, b in (("mean", "sum"), ("mean", "nearer part"), ("sum", "nearer part"))]
        add_holm(tests)
        overall = {
            **_overall([row["cosine"] for row in rows], np.stack(nulls)),
            "distance": {way: float(values.mean()) for way, values in distance.items()},
            "nearest": {way: sum(row["nearest"] == way for row in rows) for way in ("sum", "mean", "one", "two")},
            "tests": tests,
        }
        return {"rows": rows, "overall": overall}

    def test_subtraction(self, mixtures: Sequence[Mixture]) -> dict[str, Any]:
        """Does the mixture's delta minus one part's point to the other part? Both ways, against other adapters of that domain."""
        rng, rows, nulls = self._rng("subtraction"), [], []
        for mixture in self._checked(mixtures):
            whole, one, two = self._vectors(mixture)
            stand_ins = list(self._stand_ins(mixture, rng))
            for kept, rest, place in ((mixture.one, whole - two, 0), (mixture.two, whole - one, 1)):
                null = np.array([_cosine(rest, pair[place]) for pair in stand_ins])
                nulls.append(null)
                observed = _cosine(rest, self.deltas[kept])
                rows.append({**_names(mixture), "left": kept, "cosine": observed, "null_cosine": float(null.mean())})
                rows[-1]["p_value"] = _p_value(observed, null)
        add_holm(rows)
        return {"rows": rows, "overall": _overall([row["cosine"] for row in rows], np.stack(nulls))}

    def test_interpolation(self, mixtures: Sequence[Mixture], points: int = POINTS) -> dict[str, Any]:
        """Cosine of the mixture's delta to the points between its parts, first part at 0, second at 1.

        Returns:
            `rows`: one list of cosines per mixture; `null`: 2.5, 50 and 97.5% quantiles, at each point, of the mean cosine with
            stand-ins; `overall`: at the middle, with its p-value.
        """
        shares, rng = np.linspace(0, 1, points), self._rng("interpolation")
        rows, nulls = [], []
        for mixture in self._checked(mixtures):
            whole, one, two = self._vectors(mixture)
            rows.append({**_names(mixture), "cosines": [_cosine(whole, (1 - t) * one + t * two) for t in shares]})
            nulls.append(
                [[_cosine(whole, (1 - t) * a + t * b) for t in shares] for a, b in self._stand_ins(mixture, rng, self.n_null // 10)]
            )
        means = np.mean([row["cosines"] for row in rows], axis=0)
        null = np.array(nulls)  # mixture, draw, point
        quantiles = np.quantile(null.mean(0), [0.025, 0.5, 0.975], axis=0)
        middle = points // 2
        at_middle = _overall([row["cosines"][middle] for row in rows], null[..., middle])
        return {
            "rows": rows,
            "null": dict(zip(("low", "median", "high"), quantiles.tolist(), strict=True)),
            "overall": {"shares": shares.tolist(), "cosines": means.tolist(), **at_middle},
        }

    def _vectors(self, mixture: Mixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.deltas[mixture.whole], self.deltas[mixture.one], self.deltas[mixture.two]

    def _stand_ins(self, mixture: Mixture, rng: np.random.Generator, count: int | None = None) -> Any:
        """Pairs of deltas from the parts' domains, none of them the mixture or a part of it."""
        pools = []
        for part in (mixture.one, mixture.two):
            own = {mixture.whole, mixture.one, mixture.two}
            pool = [name for name, group in self.groups.items() if group == self.groups[part] and name not in own and name in self.deltas]
            if not pool:
                raise InputError(
                    f"no other adapter of domain {self.groups[part]!r} to compare {part} with; compute deltas of more adapters"
                )
            pools.append(rng.choice(pool, size=count or self.n_null))
        return [(self.deltas[a], self.deltas[b]) for a, b in zip(*pools, strict=True)]

    def _checked(self, mixtures: Sequence[Mixture]) -> Sequence[Mixture]:
        if not mixtures:
            raise InputError("no mixtures to test; build teachers of split mixture ('llgbm zoo build') and run 'llgbm compute-deltas'")
        for mixture in mixtures:
            missing = next((name for name in (mixture.whole, mixture.one, mixture.two) if name not in self.deltas), None)
            if missing is not None:
                raise InputError(f"the cache has no delta of {missing}; run 'llgbm compute-deltas' on its folder")
        return mixtures

    def _rng(self, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what.encode()])


@dataclass(frozen=True)
class ComposedAdapter:
    """An adapter made of others."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    factors: LoRAFactors
    """K = 1, scaling 1."""
    cosine: float
    """Of the weighted sum of the parts' deltas to the target (1 where there is none)."""


class AdapterComposer:
    """Composes adapters at the level of weight changes: exact weighted sums of BA, never of A and B apart.

    Args:
        delta_cache: Names of adapters -> deltas; names are adapter folders unless `factors` is given.
        base_or_shapes: As `AdapterMerger` takes it.
        factors: Name -> factors already in memory.
    """

    def __init__(
        self,
        delta_cache: DeltaCache | str | Path | Mapping[str, np.ndarray],
        base_or_shapes: Base | Mapping[str, tuple[int, int]],
        factors: Mapping[str, LoRAFactors] | None = None,
    ) -> None:
        self.deltas = {name: np.asarray(delta, dtype=np.float64).ravel() for name, delta in _all_deltas(delta_cache).items()}
        self.merger, self.factors = AdapterMerger(base_or_shapes), factors

    def compose_by_delta_sum(self, names: Sequence[str], weights: Sequence[float] | None = None) -> ComposedAdapter:
        """The sum of the adapters' weight changes (weights 1): if behavior were linear in weights, its delta would be the sum of theirs."""
        chosen = [1.0] * len(names) if weights is None else list(weights)
        factors = self.merger.merge(self._stacked(names), chosen, "product")
        return ComposedAdapter(tuple(names), tuple(chosen), factors, 1.0)

    def compose_by_delta_target(
        self, target: Float[np.ndarray, "..."], k: int = 4, candidates: Sequence[str] | None = None, rank: int | None = None
    ) -> ComposedAdapter:
        """The k adapters and weights >= 0 whose deltas sum nearest to a target, merged.

        Args:
            target: A fingerprint of the cache's kind.
            k: At most so many adapters: the largest of the best non-negative combination of all, fitted again.
            candidates: Names to choose from; all by default.
            rank: Cut the merged adapter to this rank.

        Raises:
            InputError: No candidates, a target of another length, or nothing points its way.

        Source:
            Non-negative least squares, Lawson & Hanson 1974 (`scipy.optimize.nnls`).
        """
        names = list(self.deltas if candidates is None else candidates)
        goal = np.asarray(target, dtype=np.float64).ravel()
        if not names or goal.shape != self.deltas[names[0]].shape:
            have = self.deltas[names[0]].shape if names else "no adapters"
            raise InputError(f"the target delta has shape {goal.shape}, the cache has {have}; use deltas of one configuration")
        matrix = np.stack([self.deltas[name] for name in names], axis=1)
        weights = optimize.nnls(matrix, goal)[0]
        kept = [int(i) for i in np.argsort(-weights, kind="stable")[:k] if weights[i] > 0]
        if not kept:
            raise InputError("no adapter's delta points towards the target; give other candidates")
        refit = optimize.nnls(matrix[:, kept], goal)[0]
        chosen = [(names[i], float(w)) for i, w in zip(kept, refit, strict=True) if w > NEGLIGIBLE * refit.max()]
        picked, scales = tuple(name for name, _ in chosen), tuple(w for _, w in chosen)
        factors = self.merger.merge(self._stacked(picked), list(scales), "product", rank=rank)
        return ComposedAdapter(picked, scales, factors, _cosine(goal, matrix[:, kept] @ refit))

    def _stacked(self, names: Sequence[str]) -> LoRAFactors:
        if self.factors is None:
            return read_adapters(list(names))
        return LoRAFactors.stack([self.factors[name] for name in names])


def mixtures_of(zoo: TeacherZoo, names: Mapping[str, Teacher]) -> list[Mixture]:
    """The zoo's mixtures whose teacher and both parts (of the same seed) are among `names`.

    Args:
        zoo: Its suite says which tasks a mixture unites.
        names: Name in the cache -> teacher.
    """
    by_task = {(teacher.task, teacher.seed): name for name, teacher in names.items()}
    found = []
    for name, teacher in names.items():
        parts = zoo.suite[teacher.task].parts
        keys = [(part, teacher.seed) for part in parts]
        if len(parts) == 2 and all(key in by_task for key in keys):
            found.append(Mixture(name, by_task[keys[0]], by_task[keys[1]]))
    return found


def _all_deltas(source: DeltaCache | str | Path | Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    if isinstance(source, Mapping):
        return source
    cache = source if isinstance(source, DeltaCache) else DeltaCache(source)
    return cache.get_all_deltas()


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    """0 when either is zero."""
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm else 0.0


def _distance(whole: np.ndarray, way: np.ndarray) -> float:
    """Relative to the whole's length; nan for a zero whole."""
    norm = float(np.linalg.norm(whole))
    return float(np.linalg.norm(whole - way)) / norm if norm else float("nan")


def _p_value(observed: float, null: np.ndarray) -> float:
    """One-sided Monte Carlo p-value, never 0. Source: Phipson & Smyth 2010, arXiv:1603.05766."""
    return float(1 + np.sum(null >= observed)) / (1 + null.size)


def _overall(observed: Sequence[float], nulls: np.ndarray) -> dict[str, float]:
    """The mean over mixtures against the mean over mixtures of one draw each; nulls [mixtures, draws]."""
    means = nulls.mean(0)
    mean = float(np.mean(observed))
    return {"cosine": mean, "null_cosine": float(means.mean()), "p_value": _p_value(mean, means), "n": len(observed)}


def _wilcoxon(distance: Mapping[str, np.ndarray], nearer: str, farther: str) -> dict[str, Any]:
    """Is the mixture nearer to one way than to another, over mixtures? Two-sided; p = 1 when all distances are equal."""
    difference = distance[farther] - distance[nearer]
    found: Any = stats.wilcoxon(difference) if np.any(difference != 0) else None
    p_value = 1.0 if found is None else float(found.pvalue)
    return {"nearer": nearer, "farther": farther, "difference": float(difference.mean()), "p_value": p_value}


def _names(mixture: Mixture) -> dict[str, str]:
    return {"mixture": mixture.whole, "one": mixture.one, "two": mixture.two}
