"""All of `llgbm compose`: a zoo's mixtures and random pairs, geometry and behavior, and the findings in words."""

import csv
import io
import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llgbm.compositionality import POINTS, AdapterComposer, CompositionExperiment, Mixture, mixtures_of
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache, engine_of_cache
from llgbm.delta.cache import delta_key
from llgbm.errors import InputError
from llgbm.evaluation.composition_eval import AVERAGE, COMPOSITIONS, TARGET_ADAPTERS, CompositionEvaluator, Pair
from llgbm.evaluation.setting import EvaluationConfig, load_setting
from llgbm.evaluation.statistics import add_holm, p_text, paired_by
from llgbm.percent import percent
from llgbm.progress import ProgressCallback
from llgbm.zoo.base import BaseOptions
from llgbm.zoo.folder import Teacher, TeacherZoo

FILE = "composition.json"
BOUNDS = ("base", "first_teacher", "second_teacher", "mixture_teacher", AVERAGE)
"""Ways that are no contestants for the best composition."""
NO_MIXTURES = (
    "Fingerprints: not asked, for this zoo has no mixtures with both their parts. Add tasks of split mixture, whose parts name the two "
    "tasks they unite, to its suite; then 'llgbm zoo build' and 'llgbm compute-deltas'."
)
MEASURED = (AVERAGE, "sum", "delta_target", "generated", "generated_average")
"""Ways whose adapters' fingerprints are measured beside the mixtures'."""


def compose_zoo(
    config: ExperimentConfig,
    zoo_folder: str | Path,
    cache_dir: str | Path,
    checkpoint: str | Path | None = None,
    *,
    ways: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    n_pairs: int = 24,
    max_examples: int | None = None,
    base: BaseOptions | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Every experiment on a zoo.

    Args:
        config: Its section probe says on what the cache's deltas were measured.
        zoo_folder: With mixtures among its teachers; without any, only pairs are composed.
        cache_dir: Deltas of the zoo's teachers.
        checkpoint: A generator's run; without it its ways are left out.
        ways: Of `COMPOSITIONS`; all that are possible by default.
        seeds: For everything drawn.
        n_pairs: Random pairs of seen tasks, of different domains where there are several, beside the mixtures.
        max_examples: Test examples per task; all by default.
        base: Another place, precision or device of the base than the zoo recorded.
        progress: Called with pairs done and to do, per experiment.

    Returns:
        The content of `composition.json`.

    Raises:
        InputError: No zoo, no deltas, nothing to compose, or what is asked for does not fit together.
    """
    setting = load_setting(checkpoint, zoo_folder, EvaluationConfig(max_examples=max_examples, base=base or BaseOptions()))
    cache = DeltaCache(cache_dir)
    deltas, teachers = named_deltas(cache, setting.zoo)
    mixtures = mixtures_of(setting.zoo, teachers)
    evaluator = CompositionEvaluator(setting, teachers, deltas, engine_of_cache(config, cache, base=setting.base))
    pairs = [Pair(m.one, m.two, m.whole) for m in mixtures]
    others = _random_pairs(teachers, n_pairs, seeds[0], {frozenset((m.one, m.two)) for m in mixtures})
    if not pairs and not others:
        raise InputError(f"zoo {zoo_folder}: neither mixtures nor two seen tasks of one training seed to compose; build more teachers")
    scored = evaluator.evaluate(pairs, ways, seeds, progress) if pairs else None
    possible = [way for way in ways if not COMPOSITIONS[way].needs or COMPOSITIONS[way].needs == "generator"] if ways else []
    elsewhere = evaluator.evaluate(others, possible, seeds, progress) if others and (possible or not ways) else None
    if scored is None and elsewhere is None:
        raise InputError(f"zoo {zoo_folder} has no mixtures, which {', '.join(ways)} need; choose other methods")
    shares = np.linspace(0, 1, POINTS).tolist()
    document: dict[str, Any] = {
        "zoo": {"folder": str(zoo_folder), "hash": setting.zoo.content_hash},
        "deltas": cache.manifest["config"],
        "seeds": list(seeds),
        **_geometry(deltas, teachers, mixtures, seeds),
        "mixtures": scored,
        "pairs": elsewhere,
        "interpolated": _by_share(evaluator.interpolate(pairs or others, shares, progress), shares),
        "targets": _targets(evaluator, mixtures, deltas) if mixtures else [],
        "map": _map(evaluator, pairs, deltas, teachers, [row["way"] for row in scored["ways"]] if scored else []),
    }
    return {**document, "findings": findings(document)}


def _geometry(
    deltas: Mapping[str, np.ndarray], teachers: Mapping[str, Teacher], mixtures: Sequence[Mixture], seeds: Sequence[int]
) -> dict[str, dict[str, Any] | None]:
    """Whether fingerprints add, subtract and interpolate; None each where there are no mixtures to ask.

    Of teachers of several training seeds those of the mixtures' first one speak: the others are of the same tasks.
    """
    if not mixtures:
        return dict.fromkeys(("additivity", "subtraction", "interpolation"))
    first = min(teachers[mixture.whole].seed for mixture in mixtures)
    domains = {name: teacher.domain for name, teacher in teachers.items() if teacher.seed == first}
    mixtures = [mixture for mixture in mixtures if mixture.whole in domains]
    experiments = [CompositionExperiment({name: deltas[name] for name in domains}, domains, seed) for seed in seeds]
    geometry = {
        "additivity": _over_seeds([e.test_additivity(mixtures) for e in experiments]),
        "subtraction": _over_seeds([e.test_subtraction(mixtures) for e in experiments]),
        "interpolation": _over_seeds([e.test_interpolation(mixtures) for e in experiments]),
    }
    add_holm([test["overall"] for test in geometry.values()])
    return {**geometry}


def named_deltas(cache: DeltaCache, zoo: TeacherZoo) -> tuple[dict[str, np.ndarray], dict[str, Teacher]]:
    """Fingerprints and teachers by the teachers' paths in the zoo, of all teachers whose adapters, as they are now, the cache has.

    Raises:
        InputError: The cache has no delta of this zoo's teachers.
    """
    config, held = cache.manifest["config"], {record["key"]: path for path, record in cache.manifest["adapters"].items()}
    keys = {teacher: delta_key(config, teacher.hash) for teacher in zoo.teachers} if config else {}
    found = cache.get_deltas({held[key] for key in keys.values() if key in held})
    known = {teacher.path: (teacher, found[held[key]].ravel()) for teacher, key in keys.items() if held.get(key) in found}
    if not known:
        raise InputError(f"{cache.cache_dir}: no deltas of the adapters in {zoo.folder}; run 'llgbm compute-deltas' first")
    return {path: known[path][1] for path in sorted(known)}, {path: known[path][0] for path in sorted(known)}


def findings(document: Mapping[str, Any]) -> list[str]:
    """Sentences that follow from the figures: two on fingerprints, where there are mixtures, and one on tasks."""
    if document["additivity"] is None:
        lines = [NO_MIXTURES]
    else:
        added, taken = document["additivity"]["overall"], document["subtraction"]["overall"]
        certain = "more" if added["p_holm"] < 0.05 else "not reliably more"
        nearest = _nearest(added["distance"], added["tests"])
        points = "points to the other part" if taken["p_holm"] < 0.05 else "does not point to the other part more than chance"
        lines = [
            f"Fingerprints: a mixture's is {nearest}, and like its parts' sum {certain} than like random parts' "
            f"(cosine {added['cosine']:.2f} against {added['null_cosine']:.2f}, p = {added['p_holm']:.2g}, n = {added['n']}).",
            f"Subtraction: a mixture's fingerprint minus one part's {points} (cosine {taken['cosine']:.2f} against "
            f"{taken['null_cosine']:.2f}, p = {taken['p_holm']:.2g}).",
        ]
    scored = document["mixtures"] or document["pairs"]
    ways = {row["way"]: row for row in scored["ways"]}
    rivals = [row for name, row in ways.items() if name not in BOUNDS]
    if rivals and AVERAGE in ways:
        both = (
            f"; a teacher trained on both reaches {percent(ways['mixture_teacher']['exact_match'], 1)}" if "mixture_teacher" in ways else ""
        )
        best = max(rivals, key=lambda row: row["exact_match"])
        lines.append(_against_averaging(best, ways[AVERAGE], scored["comparisons"]) + both + ".")
    return lines


def _against_averaging(best: Mapping[str, Any], average: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What the best rival of plain averaging reaches, and whether the difference is more than chance."""
    test = next((row for row in comparisons if row["way"] == best["way"]), None)
    certain = test is not None and test["p_holm"] is not None and test["p_holm"] < 0.05
    name, value, plain = best["way"], percent(best["exact_match"], 1), percent(average["exact_match"], 1)
    if best["exact_match"] > average["exact_match"]:
        verb = "beats" if certain else "does not reliably beat"
        line = f"Tasks: the best composition, {name}, does both at {value} and {verb} plain averaging at {plain}"
    else:
        verb = "is worse" if certain else "is not reliably worse"
        line = f"Tasks: plain averaging does both at {plain} and no composition does better; the next, {name}, at {value}, {verb}"
    if test is None:
        return line
    return f"{line} (difference {percent(test['difference'], 1, sign=True)}, p {p_text(test['p_holm'])}, {paired_by(test)})"


def _nearest(distance: Mapping[str, float], tests: Sequence[Mapping[str, Any]]) -> str:
    """Which of the parts' sum, their mean and the nearer part a mixture is nearest to, or which two are as near."""
    words = {"sum": "the sum of its parts'", "mean": "the mean of its parts'", "nearer part": "one of its parts'"}
    first, second = sorted(words, key=lambda way: distance[way])[:2]
    test = next(test for test in tests if {test["nearer"], test["farther"]} == {first, second})
    if test["p_holm"] < 0.05:
        return f"nearest to {words[first]} (relative distance {distance[first]:.2f}; next is {words[second]} at {distance[second]:.2f})"
    return f"about as near to {words[first]} as to {words[second]} (relative distance {distance[first]:.2f} and {distance[second]:.2f})"


def as_csv(document: Mapping[str, Any]) -> str:
    """A line per pair and way."""
    rows = [{"pairs": name, **row} for name in ("mixtures", "pairs") if document[name] for row in document[name]["rows"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first seed's result, with the p-values all seeds drew: observed figures do not depend on the seed, the null does."""
    return {**runs[0], "p_value_by_seed": [run["overall"]["p_value"] for run in runs]}


def _random_pairs(teachers: Mapping[str, Teacher], count: int, seed: int, united: Set[frozenset[str]]) -> list[Pair]:
    """Seen teachers of different domains (of a zoo with one: tasks) and one training seed that no mixture unites."""
    one_domain = len({teacher.domain for teacher in teachers.values() if teacher.split == "seen"}) == 1
    rng, singles = random.Random(f"pairs/{seed}"), [name for name, teacher in teachers.items() if teacher.split == "seen"]
    found: dict[Pair, None] = {}
    for _ in range(100 * count):
        if len(found) == count or len(singles) < 2:
            break
        one, two = rng.sample(singles, 2)
        alike = teachers[one].seed == teachers[two].seed and teachers[one].task != teachers[two].task
        if alike and (one_domain or teachers[one].domain != teachers[two].domain) and frozenset((one, two)) not in united:
            found[Pair(*sorted((one, two)))] = None
    return list(found)


def _by_share(rows: Sequence[dict[str, Any]], shares: Sequence[float]) -> list[dict[str, Any]]:
    """Per point, the mean over pairs and, per pair, exact match on each task."""
    points = []
    for share in shares:
        here = [row for row in rows if row["share"] == share]
        values = {key: [row[key] for row in here] for key in ("exact_one", "exact_two", "exact_match", "nll")}
        points.append({"share": share, **{key: float(np.mean(found)) for key, found in values.items()}, "pairs": values})
    return points


def _targets(evaluator: CompositionEvaluator, mixtures: Sequence[Mixture], deltas: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Per mixture: which seen teachers explain its fingerprint best, how well, and what the merged adapter's fingerprint really is."""
    rows = []
    candidates = [name for name, teacher in evaluator.teachers.items() if teacher.split == "seen" and name in deltas]
    composer = AdapterComposer(
        {name: deltas[name] for name in candidates},
        evaluator.setting.functional.shapes,
        {name: evaluator.factors(name) for name in candidates},
    )
    measured = evaluator.fingerprints("delta_target", [Pair(m.one, m.two, m.whole) for m in mixtures])
    for mixture, real in zip(mixtures, measured, strict=True):
        target = deltas[mixture.whole]
        found = composer.compose_by_delta_target(target, TARGET_ADAPTERS)
        cosine = float(target @ real / (np.linalg.norm(target) * np.linalg.norm(real)))
        parts = [part in found.names for part in (mixture.one, mixture.two)]
        rows.append({**asdict(mixture), "adapters": list(found.names), "weights": list(found.weights), "parts_found": sum(parts)})
        rows[-1] |= {"explained_cosine": found.cosine, "measured_cosine": cosine}
    return rows


def _map(
    evaluator: CompositionEvaluator,
    pairs: Sequence[Pair],
    deltas: Mapping[str, np.ndarray],
    teachers: Mapping[str, Teacher],
    ways: Sequence[str],
) -> dict[str, Any]:
    """A plane of the fingerprints by PCA: teachers, mixtures, and composed adapters, with the mean cosine of these to the mixtures'."""
    from sklearn.decomposition import PCA

    names = list(deltas)
    rows = np.stack([deltas[name] for name in names]).astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    plane = PCA(2, random_state=0).fit(unit)
    composed, cosines = {}, {}
    for way in [way for way in MEASURED if way in ways]:
        real = evaluator.fingerprints(way, pairs).astype(np.float64)
        real /= np.linalg.norm(real, axis=1, keepdims=True)
        composed[way] = plane.transform(real).tolist()
        cosines[way] = float(np.mean([row @ unit[names.index(pair.whole or "")] for row, pair in zip(real, pairs, strict=True)]))
    points = [
        {"name": name, "domain": teachers[name].domain, "at": at} for name, at in zip(names, plane.transform(unit).tolist(), strict=True)
    ]
    return {"adapters": points, "composed": composed, "cosine_to_mixture": cosines}
