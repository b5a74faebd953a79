"""Drift of made-up runs: from files to curves, reductions and their tests."""

from pathlib import Path

import numpy as np
import pytest
from study_runs import LAYERS, PROBES, TASKS, WIDTH, add_run, made_up, write_states

from llgbm.errors import InputError
from llgbm.files import write_text
from llgbm.study.cka import layer_cka
from llgbm.study.config import build_study
from llgbm.study.drift import drift_cells, read_drift, read_states, run_drift
from llgbm.study.folder import Study

pytest.importorskip("cka", reason="pip install 'llgbm[study]'")
pytest.importorskip("statsmodels", reason="pip install 'llgbm[study]'")
NEAR = 1e-6


def test_a_run_drifts_from_nothing_to_what_its_last_states_say(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    run = run_drift(study).tasks[0].runs[1]
    assert (run.method, run.seed, run.steps) == ("lora", 0, [0, 5, 10])
    assert run.cka[0] == pytest.approx([1] * (LAYERS + 1), abs=NEAR)
    assert run.cosine[0] == pytest.approx([1] * (LAYERS + 1), abs=NEAR)
    states = study.states("one", "lora", 0)
    base, last = (read_states(states[step])[0] for step in (0, 10))
    assert run.cka[2] == pytest.approx(layer_cka(base, last).tolist(), abs=NEAR)
    assert run.drift["cka"] == pytest.approx(1 - float(layer_cka(base, last)[1:].mean()), abs=NEAR)
    assert run.drift["cosine"] == pytest.approx(1 - float(read_states(states[10])[1][1:].mean()), abs=NEAR)
    for measure in ("cka", "cosine"):
        assert len(run.probe_drift[measure]) == PROBES
        assert np.mean(run.probe_drift[measure]) == pytest.approx(run.drift[measure], abs=NEAR)
    assert run.drift["cka"] > 1 - np.mean([x or 0 for x in run.cka[1][1:]]) > 0


def test_the_reduction_is_that_of_means_and_stands_in_the_file(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    findings = run_drift(study)
    for measure in ("cka", "cosine"):
        whole = findings.reduction[measure]
        drifts = {
            method: np.mean([[run.drift[measure] for run in task.runs if run.method == method] for task in findings.tasks])
            for method in ("lora", "full")
        }
        assert whole.reduction == pytest.approx(1 - drifts["lora"] / drifts["full"])
        assert whole.low is not None
        assert whole.high is not None
        assert whole.reduction is not None
        assert 0 < whole.low < whole.reduction < whole.high < 1
        assert (whole.n_seeds, whole.n_probes, whole.over_seeds) == (3, 2 * PROBES, False)
        assert whole.p_probes is not None
        assert whole.p_probes < 0.01
        assert whole.p_seeds is None
    assert read_drift(study) == findings
    assert [(row["task"], row["measure"]) for row in findings.rows()] == [(t, m) for t in (*TASKS, "all tasks") for m in ("cka", "cosine")]


def test_with_seven_seeds_the_permutation_of_methods_within_seeds_decides(tmp_path: Path) -> None:
    found = run_drift(made_up(tmp_path, seeds=7)).reduction["cka"]
    assert found.p_seeds == 2**-7
    assert found.over_seeds


def test_where_lora_drifts_more_the_reduction_is_below_zero_and_no_test_finds_one(tmp_path: Path) -> None:
    found = run_drift(made_up(tmp_path, seeds=7, drift={"full": 0.2, "lora": 0.8})).reduction["cka"]
    assert found.reduction is not None
    assert found.reduction < 0
    assert found.p_seeds == 1
    assert found.p_probes is not None
    assert found.p_probes > 0.9


def test_where_nothing_moves_there_is_no_reduction(tmp_path: Path) -> None:
    found = run_drift(made_up(tmp_path, drift={"full": 0.0, "lora": 0.0})).reduction["cosine"]
    assert found.full == pytest.approx(0, abs=NEAR)
    assert (found.reduction, found.low, found.high) == (None, None, None)


def test_a_layer_that_tells_no_probes_apart_counts_in_no_run(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    last = study.states("one", "full", 1)[10]
    pooled, cosine, _ = read_states(last)
    pooled[0], pooled[2] = pooled[0, :1], pooled[2, :1]
    write_states(study, "one", "full", 1, 10, pooled.numpy(), cosine.numpy())
    found = run_drift(study)
    assert [task.left_out for task in found.tasks] == [[2], []]
    run = next(run for run in found.tasks[0].runs if (run.method, run.seed) == ("full", 1))
    assert run.cka[-1][2] is None
    assert all(np.isfinite(list(run.drift.values())).all() for run in found.tasks[0].runs)
    assert read_drift(study) == found


def test_a_model_whose_layers_tell_nothing_apart_is_refused(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    write_states(study, "two", "lora", 1, 10, np.ones((LAYERS + 1, PROBES, WIDTH)), np.ones((LAYERS + 1, PROBES)))
    with pytest.raises(InputError, match="task two: no layer tells any two probes apart"):
        run_drift(study)


def test_runs_that_are_not_finished_or_not_paired_do_not_count(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    (study.run_folder("one", "full", 0) / "result.json").unlink()
    (study.run_folder("two", "lora", 1) / "result.json").unlink()
    seen = []
    found = run_drift(study, lambda done, total, **_: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert [task.reduction["cka"].n_seeds for task in found.tasks] == [2, 2]
    assert found.reduction["cka"].n_seeds == 1
    assert drift_cells(found.tasks, "cka")[0][0].shape == (1, PROBES)


def test_one_method_alone_has_curves_and_no_reduction(tmp_path: Path) -> None:
    found = run_drift(made_up(tmp_path, drift={"lora": 0.2}))
    assert found.reduction == {}
    assert [task.reduction for task in found.tasks] == [{}, {}]
    assert len(found.tasks[0].runs) == 3


def test_without_a_finished_run_the_step_to_take_is_named(tmp_path: Path) -> None:
    study = Study.open(build_study({"tasks": TASKS}), tmp_path)
    assert read_drift(study) is None
    with pytest.raises(InputError, match="no run is finished; run 'llgbm study run' first"):
        run_drift(study)


def test_states_that_are_missing_damaged_or_of_other_probes_are_named(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    pooled, cosine, _ = read_states(study.states("one", "full", 0)[10])
    write_states(study, "one", "full", 0, 10, pooled.numpy(), cosine.numpy(), probes="others")
    with pytest.raises(InputError, match=r"step-000010\.safetensors: holds other probes or layers than step 0 of its run"):
        run_drift(study)
    write_states(study, "one", "full", 0, 10, pooled.numpy(), cosine.numpy()[:, :3])
    with pytest.raises(InputError, match=r"pooled \(4, 10, 6\) and cosine \(4, 3\), expected layers by probes by width"):
        run_drift(study)
    write_text(study.states("one", "full", 0)[10], "not safetensors")
    with pytest.raises(InputError, match=r"step-000010\.safetensors: states cannot be read"):
        run_drift(study)
    for step in (5, 10):
        study.states_file("one", "full", 0, step).unlink()
    with pytest.raises(InputError, match="has states of 1 steps, the first and the last at least are needed"):
        run_drift(study)


def test_runs_with_other_layers_are_refused(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    for step in (0, 5, 10):
        write_states(
            study, "one", "lora", 1, step, np.random.default_rng(0).normal(size=(LAYERS, PROBES, WIDTH)), np.ones((LAYERS, PROBES))
        )
    with pytest.raises(InputError, match="task one: its runs recorded other layers or numbers of probes"):
        run_drift(study)
    add_run(study, "one", "lora", 1, 0.2, 0.8)
    run_drift(study)
