"""Composed adapters on both tasks: batches equal one by one, and the command from a zoo to findings."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_world import build_evaluation_world
from tolerance import depth, relative

from llgbm.cli import main
from llgbm.compositionality import Mixture, mixtures_of
from llgbm.delta import DeltaCache
from llgbm.delta.cache import delta_key
from llgbm.errors import InputError
from llgbm.evaluation.composition_eval import COMPOSITIONS, Chunk, CompositionEvaluator, Pair
from llgbm.evaluation.setting import EvaluationConfig, load_setting
from llgbm.files import write_json
from llgbm.lora.factors import LoRAFactors, combine
from llgbm.report.plots_composition import draw_composition
from llgbm.scoring import score
from llgbm.studies.composition import _against_averaging, _geometry, as_csv, named_deltas
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.suite import Task, TaskSuite
from llgbm.zoo.suites import load_suite


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """The letters zoo, in which `say g` counts as the mixture of `say a` and `say b`."""
    folder = tmp_path_factory.mktemp("world")
    zoo = build_evaluation_world(folder)
    suite = load_suite(str(folder / "suite"))
    domains = {"say a": "vowels", "say e": "vowels", "say c": "vowels"}
    tasks = {name: replace(task, domain=domains.get(name, task.domain)) for name, task in suite.tasks.items()}
    tasks["say g"] = replace(tasks["say g"], parts=("say a", "say b"))
    TaskSuite("letters", tasks).save(folder / "suite")
    manifest = json.loads((zoo / "manifest.json").read_text())
    manifest["suite"]["hash"] = load_suite(str(folder / "suite")).content_hash
    manifest["teachers"] = [{**row, "domain": tasks[row["task"]].domain} for row in manifest["teachers"]]
    write_json(zoo / "manifest.json", manifest)
    assert main(["compute-deltas", "--checkpoint_dir", str(zoo), "--output_dir", str(folder / "deltas"), *base_flags(folder)]) == 0
    return folder


def base_flags(folder: Path) -> list[str]:
    return ["--model.name", str(folder / "base")]


@pytest.fixture(scope="module")
def evaluator(world: Path) -> CompositionEvaluator:
    setting = load_setting(None, world / "zoo", EvaluationConfig())
    deltas, teachers = named_deltas(DeltaCache(world / "deltas"), setting.zoo)
    return CompositionEvaluator(setting, teachers, deltas)


def pairs(evaluator: CompositionEvaluator) -> list[Pair]:
    return [Pair(m.one, m.two, m.whole) for m in mixtures_of(evaluator.setting.zoo, evaluator.teachers)] * 3


def test_batches_of_composed_adapters_score_like_each_alone(evaluator: CompositionEvaluator, monkeypatch) -> None:
    monkeypatch.setattr("llgbm.evaluation.composition_eval.PAIRS_AT_ONCE", 2)
    found = evaluator.evaluate(pairs(evaluator), ["first_teacher", "average", "sum"])
    pair = pairs(evaluator)[0]
    two = [evaluator.factors(pair.one), evaluator.factors(pair.two)]
    alone = combine(LoRAFactors.stack(two), [0.5, 0.5])
    exact = [
        score(evaluator.setting.functional, alone, evaluator.setting.tokens(evaluator.task(n))).exact_match for n in (pair.one, pair.two)
    ]
    rows = [row for row in found["rows"] if row["way"] == "average"]
    assert len(rows) == 3
    assert all((row["exact_one"], row["exact_two"]) == tuple(exact) for row in rows)
    assert all(row["exact_match"] == pytest.approx(sum(exact) / 2) for row in rows)
    first = next(row for row in found["rows"] if row["way"] == "first_teacher")
    assert first["exact_one"] == score(evaluator.setting.functional, two[0], evaluator.setting.tokens(evaluator.task(pair.one))).exact_match
    assert found["comparisons"] == []


def test_interpolation_ends_at_the_teachers(evaluator: CompositionEvaluator) -> None:
    one = pairs(evaluator)[:1]
    singles = evaluator.evaluate(one, ["first_teacher", "second_teacher"])["rows"]
    rows = evaluator.interpolate(one, [0.0, 0.5, 1.0])
    for end, single in ((rows[0], singles[0]), (rows[2], singles[1])):
        assert (end["exact_one"], end["exact_two"]) == (single["exact_one"], single["exact_two"])
        assert end["nll"] == pytest.approx(single["nll"], rel=relative(length=128, depth=depth(2)), abs=0)


def test_searched_weights_are_not_worse_than_the_average_where_they_were_chosen(evaluator: CompositionEvaluator) -> None:
    pair = pairs(evaluator)[0]
    chunk = Chunk([pair], evaluator, seed=0)
    nll = [
        float(evaluator.negative_log_likelihood((COMPOSITIONS[way].compose(chunk) or [])[0], pair, 1, 0)[0])
        for way in ("weight_search", "average")
    ]
    assert nll[0] <= nll[1] + 1e-6


def test_random_ways_are_averaged_over_seeds_and_others_run_once(evaluator: CompositionEvaluator) -> None:
    found = {row["way"]: row for row in evaluator.evaluate(pairs(evaluator)[:1], ["sum", "dare_linear"], seeds=(0, 1, 2))["ways"]}
    assert (found["sum"]["n_seeds"], found["dare_linear"]["n_seeds"]) == (1, 3)


def test_the_command_writes_findings_and_pictures(world: Path, capsys) -> None:
    out = world / "composition"
    flags = ["--checkpoint_dir", str(world / "zoo"), "--cache_dir", str(world / "deltas"), "--output_dir", str(out), "--checkpoint", "none"]
    assert main(["compose", *flags, "--n_pairs", "2", "--seeds", "0", *base_flags(world)]) == 0
    printed = capsys.readouterr().out
    assert "Fingerprints: a mixture's is about as near to the" in printed  # of one mixture nothing is certain
    assert "Tasks: plain averaging does both at" in printed
    document = json.loads((out / "composition.json").read_text())
    assert {row["way"] for row in document["mixtures"]["ways"]} == {name for name, way in COMPOSITIONS.items() if way.needs != "generator"}
    assert len(document["interpolated"]) == 11
    assert document["findings"] == [line for line in printed.splitlines() if line.startswith(("Fingerprints", "Subtraction", "Tasks"))]
    lines = as_csv(document).splitlines()
    assert len(lines) == 1 + len(document["mixtures"]["rows"]) + len(document["pairs"]["rows"])
    assert main(["visualize", "--type", "composition", "--input_dir", str(out), "--output_dir", str(world / "figures")]) == 0
    assert all((world / "figures" / f"composition_{n}.svg").is_file() for n in ("additivity", "interpolation", "ways", "map"))


def test_a_zoo_without_mixtures_composes_pairs(tmp_path: Path, capsys) -> None:
    zoo, out = build_evaluation_world(tmp_path), tmp_path / "composition"
    assert main(["compute-deltas", "--checkpoint_dir", str(zoo), "--output_dir", str(tmp_path / "deltas"), *base_flags(tmp_path)]) == 0
    flags = ["--checkpoint_dir", str(zoo), "--cache_dir", str(tmp_path / "deltas"), "--output_dir", str(out), "--checkpoint", "none"]
    flags += ["--seeds", "0", *base_flags(tmp_path)]
    assert main(["compose", *flags, "--n_pairs", "2", "--methods", "average", "sum"]) == 0
    printed = capsys.readouterr().out
    assert "this zoo has no mixtures with both their parts. Add tasks of split mixture" in printed
    assert "Tasks: " in printed
    assert "random pairs of seen tasks" in printed
    assert "of different domains" not in printed  # the zoo has one
    document = json.loads((out / "composition.json").read_text())
    assert (document["mixtures"], document["additivity"], document["targets"]) == (None, None, [])
    assert {row["way"] for row in document["pairs"]["ways"]} == {"average", "sum"}
    assert len(document["interpolated"][0]["pairs"]["exact_one"]) == 2
    assert len(as_csv(document).splitlines()) == 1 + len(document["pairs"]["rows"])
    assert main(["visualize", "--type", "composition", "--input_dir", str(out)]) == 0
    assert {path.name for path in out.glob("*.png")} == {"composition_interpolation.png", "composition_ways.png"}
    assert main(["compose", *flags, "--n_pairs", "0"]) == 2
    assert "neither mixtures nor two seen tasks of one training seed to compose" in capsys.readouterr().err
    assert main(["compose", *flags, "--methods", "mixture_teacher"]) == 2
    assert "has no mixtures, which mixture_teacher need" in capsys.readouterr().err


def test_fingerprints_are_those_of_this_zoo_s_adapters_as_they_are_now(world: Path, tmp_path: Path) -> None:
    zoo, cache = TeacherZoo.load(world / "zoo"), DeltaCache(tmp_path / "cache")
    config = DeltaCache(world / "deltas").manifest["config"]
    cache.bind(config)
    one, two = zoo.teachers[:2]
    stored = [("elsewhere", one, "foreign"), ("here", one, delta_key(config, one.hash)), ("another", one, "foreign too")]
    stored.append(("older", two, delta_key(config, "what it was")))
    for number, (place, teacher, key) in enumerate(stored):
        cache.save_delta(f"{place}/{teacher.path}", np.full(4, number, dtype=np.float32), key)
    deltas, teachers = named_deltas(cache, zoo)
    assert {path: delta.tolist() for path, delta in deltas.items()} == {one.path: [1, 1, 1, 1]}
    assert teachers == {one.path: one}


def test_faults_are_named(world: Path, evaluator: CompositionEvaluator, tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="unknown way to compose 'summ'; choose from base"):
        evaluator.evaluate(pairs(evaluator), ["summ"])
    with pytest.raises(InputError, match=r"way generated needs a generator \(--run\)"):
        evaluator.evaluate(pairs(evaluator), ["generated"])
    with pytest.raises(InputError, match="no pairs of adapters to compose"):
        evaluator.evaluate([])
    zoo = TeacherZoo.load(world / "zoo")
    assert not mixtures_of(zoo, {name: teacher for name, teacher in evaluator.teachers.items() if teacher.task != "say a"})
    cache = DeltaCache(tmp_path / "cache")
    cache.save_delta("elsewhere/adapter", np.ones(4, dtype=np.float32))
    with pytest.raises(InputError, match="no deltas of the adapters in"):
        named_deltas(cache, zoo)
    write_json(tmp_path / "composition.json", {"rows": []})
    with pytest.raises(InputError, match="not the findings of 'llgbm compose'"):
        draw_composition(tmp_path / "composition.json", tmp_path)
    flags = [
        "compose",
        "--checkpoint_dir",
        str(world / "zoo"),
        "--cache_dir",
        str(tmp_path / "none"),
        "--checkpoint",
        "none",
        *base_flags(world),
    ]
    assert main(flags) == 2
    assert "run 'llgbm compute-deltas' first" in capsys.readouterr().err


def test_pairs_are_clustered_by_either_tasks_attributes(evaluator: CompositionEvaluator, monkeypatch) -> None:
    made = {name: f"op {name[-1]}" for name in ("say a", "say b", "say c")}
    monkeypatch.setattr(evaluator, "task", lambda name: Task(name, "letters", "seen", "", attributes={"operation": made[name]}))
    clusters = evaluator._clusters([Pair("say a", "say b"), Pair("say a", "say c")])
    assert clusters == {"first operation": ["op a", "op a"], "second operation": ["op b", "op c"]}
    monkeypatch.setattr(evaluator, "task", lambda name: Task(name, "letters", "seen", ""))
    assert evaluator._clusters([Pair("say a", "say b"), Pair("say a", "say c")]) == {
        "first task": ["say a", "say a"],
        "second task": ["say b", "say c"],
    }


def test_teachers_of_other_seeds_are_no_further_pairs(evaluator: CompositionEvaluator) -> None:
    of_task = {teacher.task: teacher for teacher in evaluator.teachers.values()}
    named = {f"{x}{seed}": replace(of_task[f"say {x}"], seed=seed) for x in "abc" for seed in (0, 1)}
    named["b1"] = replace(of_task["say c"], task="say b", seed=1)
    both = CompositionEvaluator(evaluator.setting, named)
    document = both.evaluate([Pair("a0", "b0"), Pair("a1", "b1"), Pair("a0", "c0")], ["average", "first_teacher", "second_teacher"])
    assert len(document["rows"]) == 9
    assert {row["n_pairs"] for row in document["ways"]} == {2}
    assert [(row["way"], row["n_units"]) for row in document["comparisons"]] == [("first_teacher", 2), ("second_teacher", 2)]
    second = next(row for row in document["ways"] if row["way"] == "second_teacher")
    exact = [row["exact_match"] for row in document["rows"] if row["way"] == "second_teacher"]
    assert exact == [0.5, 0.0, 0.5]
    assert second["exact_match"] == (0.25 + 0.5) / 2


def test_fingerprints_of_other_seeds_are_no_further_mixtures(evaluator: CompositionEvaluator) -> None:
    found = mixtures_of(evaluator.setting.zoo, evaluator.teachers)
    again = [Mixture(*(f"{name}-1" for name in (m.whole, m.one, m.two))) for m in found]
    teachers = {**evaluator.teachers, **{f"{name}-1": replace(teacher, seed=1) for name, teacher in evaluator.teachers.items()}}
    deltas = {**evaluator.deltas, **{f"{name}-1": delta for name, delta in evaluator.deltas.items()}}
    once = _geometry(evaluator.deltas, evaluator.teachers, found, [0])
    assert _geometry(deltas, teachers, [*again, *found], [0]) == once


def row(way: str, exact: float, p: float | None = None) -> dict:
    return {"way": way, "exact_match": exact, "p_holm": p, "difference": exact - 0.9, "n_units": 24, "unit": "pair", "clusters": {}}


@pytest.mark.parametrize(
    ("best", "p", "said"),
    [
        (
            0.95,
            0.01,
            r"the best composition, sum, does both at 95.0% and beats plain averaging at 90.0% \(difference \+5.0%, p 0.01, 24 pairs",
        ),
        (0.95, 0.2, "does not reliably beat plain averaging"),
        (0.95, None, r"does not reliably beat plain averaging at 90.0% \(difference \+5.0%, p too few to tell"),
        (0.865, 0.01, "plain averaging does both at 90.0% and no composition does better; the next, sum, at 86.5%, is worse"),
        (0.865, 0.2, "is not reliably worse"),
        (0.9, 0.2, "no composition does better; the next, sum, at 90.0%, is not reliably worse"),
    ],
)
def test_the_best_way_is_the_best(best: float, p: float | None, said: str) -> None:
    rows = [row("sum", best, p)]
    assert re.search(said, _against_averaging(rows[0], row("average", 0.9), rows))
