"""Runs of a study: each once, to the same end, with what it needs kept."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from study_world import TASK, small_study
from transformers import AutoModelForCausalLM

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.study.folder import RunResult, Study
from llgbm.study.runs import Runs, run_runs
from llgbm.study.tasks.named import load_tasks
from llgbm.tracking.lock import BusyError, hold


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[RunResult]]:
    study = small_study(tmp_path_factory.mktemp("study"), seeds=[0, 1])
    return study, run_runs(study).results


def _content(result: RunResult) -> dict:
    return {name: value for name, value in vars(result).items() if name != "seconds"}


def test_every_run_has_its_result(done: tuple[Study, list[RunResult]]) -> None:
    study, results = done
    assert [(r.task, r.method, r.seed) for r in results] == list(study.runs())
    full, lora = results[:2]
    assert full.trainable_parameters == full.total_parameters
    assert lora.trainable_parameters < lora.total_parameters
    assert full.steps == 4
    assert full.metric == "exact_match"
    assert full.example_ids == load_tasks(study.config)[TASK].example_ids("test")
    assert full.metrics["exact_match"] == sum(full.scores) / 20
    assert lora.hyperparameters["rank"] == 8


def test_a_run_that_diverged_is_named_once_the_others_are_done(tmp_path: Path) -> None:
    study = small_study(tmp_path, full__learning_rate=1e25)
    for _ in range(2):
        with pytest.raises(InputError, match=rf"the run of {TASK} by full with seed 0 diverged; its learning rate is 1e\+25, give a lower"):
            run_runs(study)
    assert study.result(TASK, "full", 0) is None
    assert study.result(TASK, "lora", 0) is not None
    assert read_json(study.run_folder(TASK, "full", 0) / "metadata.json")["state"] == "FAILED"


def test_states_are_recorded_on_the_way(done: tuple[Study, list[RunResult]]) -> None:
    study, _ = done
    for run in study.runs():
        states = study.states(*run)
        assert list(states) == [0, 3, 4]
        first, last = load_file(states[0]), load_file(states[4])
        assert first["pooled"].shape == last["pooled"].shape == (6, 5, 128)
        assert first["cosine"].min() > 0.999
        assert last["cosine"][-1].min() < 0.999
    full, lora, other = (
        load_file(study.states(TASK, method, seed)[0])["pooled"] for method, seed in (("full", 0), ("lora", 0), ("full", 1))
    )
    assert torch.equal(full, lora)
    assert torch.equal(full, other)


def test_the_run_is_recorded(done: tuple[Study, list[RunResult]]) -> None:
    study, _ = done
    folder = study.run_folder(TASK, "lora", 1)
    record = read_json(folder / "metadata.json")
    assert record["state"] == "COMPLETED"
    assert record["config"]["learning_rate"] == 3e-3
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "validation_exact_match" in line] == [2, 4]


def test_what_is_kept_answers_as_the_trained_model_did(done: tuple[Study, list[RunResult]]) -> None:
    study, results = done
    task = load_tasks(study.config)[TASK]
    whole = AutoModelForCausalLM.from_pretrained(study.run_folder(TASK, "full", 0) / "model")
    assert task.score(whole, "test").metrics == pytest.approx(results[0].metrics)
    adapted = PeftModel.from_pretrained(task.model(0), str(study.run_folder(TASK, "lora", 0) / "adapter"))
    assert task.score(adapted, "test").metrics == pytest.approx(results[1].metrics)


def test_finished_runs_stay_and_killed_ones_come_to_the_same(done: tuple[Study, list[RunResult]], tmp_path: Path) -> None:
    _, results = done
    study = small_study(tmp_path, seeds=[0])
    run_runs(study)
    kept = study.run_folder(TASK, "full", 0) / "result.json"
    before = kept.stat().st_mtime_ns
    killed = study.run_folder(TASK, "lora", 0)
    (killed / "result.json").unlink()
    stray = study.states_file(TASK, "lora", 0, 77)
    stray.write_bytes(b"left by an attempt that was killed")
    again = run_runs(study).results
    assert kept.stat().st_mtime_ns == before
    assert not stray.exists()
    assert [_content(r) for r in again] == [_content(r) for r in results[:2]]


def test_a_run_that_another_process_works_at_is_left_to_it_and_the_others_are_finished(tmp_path: Path) -> None:
    study = small_study(tmp_path, seeds=[0])
    folder = study.run_folder(TASK, "full", 0)
    with hold(folder), pytest.raises(BusyError, match=f"{folder}: process {os.getpid()} has worked there"):
        run_runs(study)
    assert study.result(TASK, "full", 0) is None
    assert study.result(TASK, "lora", 0) is not None
    assert len(run_runs(study).results) == 2


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_to_the_same_results(done: tuple[Study, list[RunResult]], tmp_path: Path) -> None:
    study = small_study(tmp_path, seeds=[0, 1])
    command = [sys.executable, "-m", "llgbm", "study", "run", "--output", str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not study.states(TASK, "lora", 0) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finished = study.run_folder(TASK, "full", 0) / "result.json"
    before = finished.stat().st_mtime_ns
    assert study.result(TASK, "lora", 0) is None
    again = run_runs(study).results
    assert finished.stat().st_mtime_ns == before
    assert [_content(result) for result in again] == [_content(result) for result in done[1]]


def test_another_seed_comes_to_something_else(done: tuple[Study, list[RunResult]]) -> None:
    _, results = done
    assert results[0].metrics["nll"] != results[2].metrics["nll"]
    assert results[1].metrics["nll"] != results[3].metrics["nll"]


def test_a_table_has_every_tasks_metrics(done: tuple[Study, list[RunResult]]) -> None:
    one, other = done[1][0], replace(done[1][1], metric="f1", metrics={"f1": 0.5})
    rows = Runs([one, other]).rows()
    assert [row["f1"] for row in rows] == [None, 0.5]
    assert [row["nll"] for row in rows] == [one.metrics["nll"], None]


def test_nothing_but_adapters_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    study = small_study(tmp_path, training__save="adapter")
    run_runs(study)
    assert not (study.run_folder(TASK, "full", 0) / "model").exists()
    assert (study.run_folder(TASK, "lora", 0) / "adapter" / "adapter_model.safetensors").is_file()


def test_runs_wait_for_their_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best\.yaml: no such file; run 'llgbm study search' first, or set search.trials to 0"):
        run_runs(small_study(tmp_path, search__trials=3))


def test_targets_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lora\.target_modules query, key: PEFT finds none of them in this base"):
        run_runs(small_study(tmp_path, methods=["lora"], lora__target_modules=["query", "key"]))


def test_the_command_runs_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tasks", f"[{TASK}]", "--seeds", "[3]", "--methods", "[lora]", "--sizes.train_examples", "8", "--sizes.test_examples", "6"]
    flags += ["--training.epochs", "1", "--search.trials", "0", "--output", str(tmp_path), "--json"]
    assert main(["study", "run", *flags]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["task"], row["method"], row["seed"], row["steps"]) == (TASK, "lora", 3, 1)
    assert main(["study", "run", *flags[:-1]]) == 0
    assert "exact match" in capsys.readouterr().out
    assert main(["study", "run", *flags, "--lora.rank", "0"]) == 2
    assert "lora.rank must be at least 1, found 0" in capsys.readouterr().err
    assert main(["study", "runs", *flags]) == 2
