"""What a run records of its surroundings, who writes it, and how a run that was killed is found."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_world import build_world

from llgbm.files import read_json, write_json
from llgbm.report.collect import collect_run
from llgbm.tracking.context import _container, capture
from llgbm.tracking.process import is_first_process
from llgbm.tracking.record import SILENT_S, ExperimentLogger, mark_killed, read_record
from llgbm.training.behavior import train_generator

RUN_FOR_LONG = """
import sys, time
from llgbm.tracking.record import ExperimentLogger
logger = ExperimentLogger(sys.argv[1], "run")
logger.log_metrics(1, {"loss": 0.5})
print("begun", flush=True)
time.sleep(600)
"""


def git(folder: Path, *arguments: str) -> str:
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    return subprocess.run(["git", *arguments], cwd=folder, env=os.environ | names, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--initial-branch", "side")
    (folder / "script.py").write_text("one = 1\n\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "begin")
    return folder


def test_uncommitted_changes_are_kept_and_warned_of(tmp_path: Path, checkout: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ExperimentLogger(tmp_path, "clean", checkout=checkout) as logger:
        assert logger.metadata["git"] == {"commit": git(checkout, "rev-parse", "HEAD").strip(), "branch": "side", "dirty": False}
    assert not (tmp_path / "clean" / "git.diff").exists()
    assert caplog.messages == []
    (checkout / "script.py").write_text("two = 2\n\n")
    with caplog.at_level(logging.WARNING), ExperimentLogger(tmp_path, "dirty", checkout=checkout):
        pass
    assert f"the code differs from commit {logger.metadata['git']['commit'][:12]}; the difference is kept in" in caplog.text
    git(checkout, "apply", "--reverse", str(tmp_path / "dirty" / "git.diff"))
    assert (checkout / "script.py").read_text() == "one = 1\n\n"
    with ExperimentLogger(tmp_path, "dirty", checkout=checkout):
        pass
    assert not (tmp_path / "dirty" / "git.diff").exists()
    (checkout / "script.py").write_text("three = 3\n")
    with ExperimentLogger(tmp_path, "basic", "basic", checkout):
        pass
    assert not (tmp_path / "basic" / "git.diff").exists()


def test_three_levels_each_with_all_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_LOGS_MINE", "shown")
    monkeypatch.setenv("TORCH_API_KEY", "never-shown")
    monkeypatch.setenv("HF_TOKEN", "never-shown")
    basic, standard, complete = (capture(level)[0] for level in ("basic", "standard", "complete"))
    assert basic.keys() == {"level", "git", "environment"}
    assert standard.keys() - basic.keys() == {"requirements", "system", "cuda", "container"}
    assert complete.keys() - standard.keys() == {"installed", "variables", "torch_build"}
    assert standard["requirements"]["torch"] == complete["installed"]["torch"]
    assert standard["system"]["memory_bytes"] > 0
    assert complete["variables"]["TORCH_LOGS_MINE"] == "shown"
    assert "never-shown" not in json.dumps(complete)


def test_a_container_is_known_by_the_mark_its_engine_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert _container(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".containerenv").touch()
    assert _container(tmp_path) == {"kind": "podman", "memory_limit_bytes": None}
    (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (tmp_path / "sys" / "fs" / "cgroup" / "memory.max").write_text("1024\n")
    (tmp_path / ".dockerenv").touch()
    assert _container(tmp_path) == {"kind": "docker", "memory_limit_bytes": 1024}
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert _container(tmp_path / "sys") == {"kind": "kubernetes", "memory_limit_bytes": None}


def test_of_processes_launched_together_the_first_alone_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process()
    monkeypatch.setenv("RANK", "1")
    with ExperimentLogger(tmp_path, "run") as logger:
        logger.log_metrics(1, {"loss": 1.0})
        logger.log_evaluation("main", {})
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    with ExperimentLogger(tmp_path, "run") as logger:
        logger.log_metrics(1, {"loss": 1.0})
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != "git.diff") == ["metadata.json", "metrics.jsonl"]


def test_a_killed_run_is_found_and_marked_when_it_is_looked_at(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", RUN_FOR_LONG, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    mark_killed(tmp_path / "run")
    assert read_json(tmp_path / "run" / "metadata.json")["state"] == "RUNNING"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert collect_run(tmp_path / "run").state == "FAILED"
    record = read_json(tmp_path / "run" / "metadata.json")
    assert record["error"].startswith(f"killed: process {process.pid} on ")
    assert record["ended"] >= record["started"]
    mark_killed(tmp_path / "nowhere")


def test_a_run_elsewhere_is_killed_where_its_heartbeat_has_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ExperimentLogger(tmp_path, "run")
    record = read_json(folder / "metadata.json")
    record["process"] |= {"host": "elsewhere", "pid": 2**22 + 1}
    write_json(folder / "metadata.json", record)
    assert read_record(folder)["state"] == "RUNNING"  # nothing tells that it has ended
    (folder / "hardware.jsonl").touch()
    assert read_record(folder)["state"] == "RUNNING"
    silent = time.time() - SILENT_S - 1
    os.utime(folder / "hardware.jsonl", (silent, silent))
    assert "on elsewhere is gone" in read_record(folder)["error"]


def test_a_run_that_goes_on_remembers_how_its_attempts_ended(tmp_path: Path) -> None:
    config, folder = build_world(tmp_path), tmp_path / "outputs" / "run"

    def stop(step: int, total: int, **figures: object) -> None:
        if step == 4:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        train_generator(config, progress=stop)
    record = read_json(folder / "metadata.json")
    write_json(folder / "metadata.json", record | {"state": "RUNNING", "process": {**record["process"], "pid": 2**22 + 1}})
    train_generator(config, begin="resume")
    record = read_json(folder / "metadata.json")
    assert record["state"] == "COMPLETED"
    assert [attempt["state"] for attempt in record["earlier"]] == ["FAILED"]
    assert record["earlier"][0]["error"].startswith("killed: ")
