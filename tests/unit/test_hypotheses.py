"""The study's claims on made-up runs and times: verdicts, levels, adjusted p-values, and what is missing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from study_runs import TASKS, made_up

from llgbm.errors import InputError
from llgbm.files import read_json, write_json
from llgbm.study.claims import Pairs, claims_of, score_cells
from llgbm.study.config import build_study
from llgbm.study.deployment import DEPLOYMENT_FILE, BackendFindings, DeploymentFindings, ModelFindings
from llgbm.study.drift import run_drift
from llgbm.study.folder import CHECKS_FILE, Study
from llgbm.study.hypotheses import Finding, HypothesesFindings, judged, read_hypotheses, run_hypotheses
from llgbm.study.sanity import Checks
from llgbm.study.serving_times import Serving

pytest.importorskip("cka", reason="pip install 'llgbm[study]'")
pytest.importorskip("statsmodels", reason="pip install 'llgbm[study]'")
ALPHA = 0.05


def found(findings: HypothesesFindings, name: str, task: str | None = None) -> Finding:
    return next(one for one in findings.findings if (one.name, one.task) == (name, task))


def add_times(study: Study, factor: float, backend: str = "peft", way: str = "1 adapter") -> None:
    """Ten rounds at two batch sizes; unmerged takes `factor` times as long."""
    rng, servings = np.random.default_rng(0), []
    for size in (1, 8):
        merged = 0.1 * np.exp(0.05 * rng.normal(size=10))
        slower = merged * factor * np.exp(0.05 * rng.normal(size=10))
        for name, seconds in (("merged", merged), (way, slower)):
            times = {"mean": 100.0, "p50": 100.0, "p95": 120.0, "p99": 121.0}
            servings.append(Serving(name, 1, size, seconds.tolist(), times, 10.0, 1000, 100, float(np.median(seconds / merged))))
    one = BackendFindings("base", backend, None, 100, 0.9, servings, {"choose one in memory": 1.0})
    document = DeploymentFindings({}, {"device": "cpu"}, [ModelFindings("base", 1000, "2 random ones", None, [one])])
    write_json(study.path(DEPLOYMENT_FILE), dataclasses.asdict(document))


def test_with_seven_seeds_claims_are_supported_for_these_models_and_for_training_anew(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=7)
    run_drift(study)
    add_times(study, 1.1)
    findings = run_hypotheses(study)
    assert read_hypotheses(study) == findings
    assert [(one.name, one.task) for one in findings.findings] == [
        ("H1", None), ("H2", None), ("H3", None), ("H1", "one"), ("H1", "two"), ("H2", "one"), ("H2", "two")
    ]  # fmt: skip
    for name in ("H1", "H2"):
        one = found(findings, name)
        assert one.verdict == {"models": "supported", "seeds": "supported"}
        assert one.tests["seeds"].p_value == 2**-7
        assert one.holm["seeds"] == pytest.approx(2 * 2**-7)
        assert one.bonferroni["seeds"] == pytest.approx(2 * 2**-7)
        assert one.why.endswith("of training anew, 7 seeds: p = 0.016")
    assert found(findings, "H3").verdict == {"models": "supported"}
    assert found(findings, "H3").ratio == pytest.approx(1.1, abs=0.05)
    assert found(findings, "H3").lora == pytest.approx(110, abs=6)
    assert findings.missing == {}


def test_with_three_seeds_it_says_so_instead_of_a_p_value(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=3)
    run_drift(study)
    findings = run_hypotheses(study)
    one = found(findings, "H1")
    assert one.tests["seeds"].p_value is None
    assert one.holm == {"models": pytest.approx(0, abs=1e-9), "seeds": None}
    assert one.verdict == {"models": "supported", "seeds": "undecided"}
    assert "3 seeds: too few to tell, since the smallest p they can give is 0.125, and 6 are needed" in one.why
    assert {row["p, seeds"] for row in findings.rows() if "p, seeds" in row} == {"too few to tell"}
    assert findings.missing == {"H3": "needs times of serving; run 'llgbm study deploy'"}
    assert findings.rows()[-1]["claim"] == "H3"


@pytest.mark.parametrize(("lora", "expected"), [(0.8, "supported"), (0.78, "undecided"), (0.5, "not supported")])
def test_h1_takes_the_margin_off_full_fine_tunings_score(tmp_path: Path, lora: float, expected: str) -> None:
    """0.97 * 0.8 is 0.776, so 0.78 is above by less than 100 examples can tell."""
    study = made_up(tmp_path, seeds=7, score={"full": 0.8, "lora": lora})
    one = found(run_hypotheses(study), "H1")
    assert one.verdict["models"] == expected
    assert one.tests["models"].excess == pytest.approx(lora - 0.97 * 0.8)
    assert one.ratio == pytest.approx(lora / 0.8)
    assert one.tests["models"].n_units == 200


def add_baselines(study: Study, scores: dict[str, float]) -> None:
    """What the most frequent answer gets; random ones get less, and another metric more."""
    baselines = {task: {"random": {"accuracy": 0.1}, "majority": {"accuracy": score, "f1": 0.99}} for task, score in scores.items()}
    write_json(study.path(CHECKS_FILE), dataclasses.asdict(Checks([], baselines)))


def test_h1_says_nothing_of_tasks_that_full_fine_tuning_did_not_learn(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=7)
    add_baselines(study, {"one": 0.5, "two": 0.78})
    findings = run_hypotheses(study)
    one, two, both = (found(findings, "H1", task) for task in ("one", "two", None))
    assert set(one.verdict.values()) == {"supported"}
    assert set(two.verdict.values()) == {"undecided"}
    assert two.why.startswith("Full fine-tuning (80%) is not shown to beat untrained answers (majority, 78%); of these trained models")
    assert set(both.verdict.values()) == {"supported"}
    assert both.tests["models"].n_units == 100
    assert both.why.startswith("Without two, where full fine-tuning is not shown to beat untrained answers; ")


def test_h2_says_nothing_of_tasks_that_full_fine_tuning_did_not_learn(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=7)
    run_drift(study)
    add_baselines(study, {"one": 0.5, "two": 0.78})
    findings = run_hypotheses(study)
    one, two, both = (found(findings, "H2", task) for task in ("one", "two", None))
    assert set(one.verdict.values()) == {"supported"}
    assert set(two.verdict.values()) == {"undecided"}
    assert (both.lora, both.other) == (one.lora, one.other)
    assert both.why.startswith("Without two, where full fine-tuning is not shown to beat untrained answers; ")
    assert two.why.startswith("Full fine-tuning (80%) is not shown to beat untrained answers (majority, 78%); of these trained models")


def test_h1_is_undecided_where_nothing_was_learned_at_all(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=7)
    add_baselines(study, {"one": 0.8, "two": 0.81})
    both = found(run_hypotheses(study), "H1")
    assert set(both.verdict.values()) == {"undecided"}
    assert both.why.startswith("Full fine-tuning is not shown to beat untrained answers on any task; ")
    assert both.ratio == pytest.approx(1)


def test_h1_without_baselines_says_so(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=7)
    add_baselines(study, {"one": 0.5})
    findings = run_hypotheses(study)
    assert not found(findings, "H1", "one").why.startswith("Not set beside")
    assert found(findings, "H1", "two").why.startswith("Not set beside untrained answers; run 'llgbm study check'; of these")
    assert found(findings, "H1").why.startswith("Not set beside untrained answers; run 'llgbm study check'; of these")


@pytest.mark.parametrize(("lora", "expected"), [(0.1, "supported"), (0.8, "not supported")])
def test_h2_asks_for_less_drift(tmp_path: Path, lora: float, expected: str) -> None:
    study = made_up(tmp_path, seeds=7, drift={"full": 0.8, "lora": lora})
    drift = run_drift(study)
    one = found(run_hypotheses(study), "H2")
    assert set(one.verdict.values()) == {expected}
    assert one.ratio == pytest.approx(1 - (drift.reduction["cka"].reduction or 0))
    assert one.tests["models"].excess == pytest.approx(0.8 * one.other - one.lora)
    assert (one.low, one.high) == pytest.approx(tuple(1 - (x or 0) for x in (drift.reduction["cka"].high, drift.reduction["cka"].low)))


@pytest.mark.parametrize(("factor", "expected"), [(1.1, "supported"), (1.3, "undecided"), (2.0, "not supported")])
def test_h3_asks_for_a_small_overhead(tmp_path: Path, factor: float, expected: str) -> None:
    study = Study.open(build_study({"tasks": TASKS}), tmp_path)
    add_times(study, factor)
    findings = run_hypotheses(study)
    one = found(findings, "H3")
    assert one.verdict == {"models": expected}
    assert one.low is not None
    assert one.high is not None
    assert one.low < factor < one.high or abs(one.low - factor) < 0.05
    assert one.why.startswith("Of these timings, over 20 rounds, p ")
    assert set(findings.missing) == {"H1", "H2"}


def test_h3_names_what_was_not_measured(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    add_times(study, 1.1, backend="functional")
    assert claims_of(study)["H3"] == (
        "needs times of 1 adapter by peft on base; see deployment.backends and deployment.adapters, and 'llgbm study deploy'"
    )
    study = Study(build_study({"hypotheses": {"serving_backend": "functional", "serving_adapters": 4}}), tmp_path)
    assert "needs times of 4 adapters by functional" in str(claims_of(study)["H3"])
    add_times(study, 1.1, backend="functional", way="4 adapters")
    assert isinstance(claims_of(study)["H3"], list)


def test_h3_takes_the_first_model_that_is_served(tmp_path: Path) -> None:
    study = Study.open(build_study({"tasks": TASKS}), tmp_path)
    add_times(study, 1.1)
    document = read_json(study.path(DEPLOYMENT_FILE))
    refused = {"model": "base", "parameters": 0, "adapters": "", "refused": "an encoder", "backends": []}
    write_json(study.path(DEPLOYMENT_FILE), document | {"models": [refused, *document["models"]]})
    assert isinstance(claims_of(study)["H3"], list)
    write_json(study.path(DEPLOYMENT_FILE), document | {"models": [refused]})
    assert claims_of(study)["H3"] == "needs a model that can be served; set deployment.models, and run 'llgbm study deploy'"


def test_nothing_to_test_names_every_step(tmp_path: Path) -> None:
    study = Study.open(build_study({"tasks": TASKS}), tmp_path)
    assert read_hypotheses(study) is None
    with pytest.raises(
        InputError, match=r"nothing to test yet; H1: needs a finished run .* H2: .*'llgbm study drift'; H3: .*'llgbm study deploy'"
    ):
        run_hypotheses(study)


def test_runs_scored_on_other_examples_are_refused(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    result = study.result("two", "lora", 1)
    assert result is not None
    study.write_result(dataclasses.replace(result, example_ids=[f"other:{i}" for i in range(100)]))
    with pytest.raises(InputError, match="task two: lora, seed 1 was scored on other examples than full, seed 0; remove the older"):
        run_hypotheses(study)


def test_only_seeds_that_every_task_has_by_both_methods_count(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=4)
    (study.run_folder("one", "full", 0) / "result.json").unlink()
    (study.run_folder("two", "lora", 3) / "result.json").unlink()
    assert {task: {m: c.shape for m, c in cells.items()} for task, cells in score_cells(study).items()} == {
        task: {"full": (2, 100), "lora": (2, 100)} for task in TASKS
    }
    for seed in range(4):
        (study.run_folder("two", "lora", seed) / "result.json").unlink(missing_ok=True)
    assert {task: cells["lora"].shape for task, cells in score_cells(study).items()} == {"one": (3, 100)}


def test_models_that_know_nothing_leave_everything_undecided() -> None:
    """All scores are zero: nothing is kept and nothing lost."""
    nothing = [np.zeros((7, 50))]
    one = judged([Pairs("H1", None, "claim", "example", "hoped", nothing, nothing, 0.03, more_is_better=True)], ALPHA)[0]
    assert one.verdict == {"models": "undecided", "seeds": "undecided"}
    assert (one.ratio, one.low, one.high) == (None, None, None)


def test_adjusting_counts_only_claims_of_its_level() -> None:
    rng = np.random.default_rng(0)
    cells = [1 + rng.normal(size=(7, 30)) / 10]
    claim = Pairs("H1", None, "claim", "example", "hoped", cells, [np.ones((7, 30))], 0.2, more_is_better=True)
    timed = dataclasses.replace(claim, name="H3", logarithmic=True)
    by_itself, both = judged([claim], ALPHA)[0], judged([claim, timed], ALPHA)[0]
    assert both.bonferroni["seeds"] == by_itself.bonferroni["seeds"]
    assert both.bonferroni["models"] == pytest.approx(2 * (by_itself.bonferroni["models"] or 0))
    assert judged([], ALPHA) == []


def test_a_verdict_goes_by_holm() -> None:
    """p of the second claim is 4/128: within 0.05 by itself, and beyond it twice over."""
    clear = Pairs("H1", None, "claim", "example", "hoped", [np.full((7, 2), 1.0)], [np.zeros((7, 2))], 0.0, more_is_better=True)
    barely = dataclasses.replace(clear, name="H2", lora=[np.outer([1, 1, 1, 1, 1, -0.3, -0.2], [1, 1])])
    found = judged([clear, barely], ALPHA)[1]
    assert (found.holm["seeds"], found.bonferroni["seeds"]) == (4 / 128, 8 / 128)
    assert found.verdict["seeds"] == "supported"


def test_a_claim_that_is_clear_by_itself_alone_is_not_supported() -> None:
    """p is 4/128 for both: within 0.05 each, and beyond it twice over."""
    barely = Pairs(
        "H1", None, "c", "example", "h", [np.outer([1, 1, 1, 1, 1, -0.3, -0.2], [1, 1])], [np.zeros((7, 2))], 0.0, more_is_better=True
    )
    assert judged([barely], ALPHA)[0].verdict["seeds"] == "supported"
    assert [one.verdict["seeds"] for one in judged([barely, dataclasses.replace(barely, name="H2")], ALPHA)] == ["undecided"] * 2
