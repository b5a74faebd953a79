"""Seven points: each passes where it should, and each is found where it is broken."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.tracking import validation
from llgbm.tracking.environment import SWITCHES, get_environment_info, set_seed
from llgbm.tracking.validation import (
    FAIL,
    NOT_APPLICABLE,
    PASS,
    environment_differences,
    failed_points,
    look_up,
    recorded_environment,
    validate,
)

RIGHT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def _right(monkeypatch: pytest.MonkeyPatch):
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    for name, value in RIGHT.items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(1)
    set_seed(3)
    yield
    torch.use_deterministic_algorithms(before)
    torch.set_num_threads(threads)


def statuses(**options) -> dict[str, str]:
    return {point.point: point.status for point in validate(**{"seed": 3, **options})}


def test_all_pass_where_all_is_right() -> None:
    found = statuses()
    assert len(found) == 7
    assert FAIL not in found.values()
    assert all(point.found for point in validate(3))


def test_a_look_leaves_the_generators_where_they_were_and_names_what_the_work_broke() -> None:
    assert failed_points({"before": look_up(3, "cpu")}) == []
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    before = random.getstate(), np.random.get_state()[2], torch.get_rng_state()
    assert [point.split(": ")[0] for point in failed_points({"after": look_up(3, "cpu")})] == ["after the work, seeds in sync"]
    assert failed_points({"after": look_up(3, "cpu", again=True)}) == []
    assert random.getstate() == before[0]
    assert np.random.get_state()[2] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    set_seed(3)
    assert drawn == (random.random(), np.random.rand(), torch.rand(()).item())
    torch.use_deterministic_algorithms(False)
    found = failed_points({"before": [], "after": look_up(3, "cpu", again=True)})
    assert found == ["after the work, torch deterministic mode: off; call set_seed(seed), or torch.use_deterministic_algorithms(True)"]


@pytest.mark.parametrize(
    ("point", "spoil"),
    [
        ("hash randomization", lambda: os.environ.pop("PYTHONHASHSEED")),
        ("hash randomization", lambda: os.environ.update(PYTHONHASHSEED="random")),
        ("OMP/MKL threads", lambda: torch.set_num_threads(2)),
        ("OMP/MKL threads", lambda: os.environ.pop("MKL_NUM_THREADS")),
        ("torch deterministic mode", lambda: torch.use_deterministic_algorithms(False)),
        ("seeds in sync", lambda: random.random()),
        ("seeds in sync", lambda: np.random.rand()),
        ("seeds in sync", lambda: torch.rand(())),
        ("seeds in sync", lambda: set_seed(4)),
    ],
)
def test_one_broken_point_is_the_one_that_fails_and_says_how_to_mend_it(point: str, spoil) -> None:
    spoil()
    failed = [found for found in validate(3) if found.status == FAIL]
    assert [found.point for found in failed] == [point]
    assert failed[0].mend


def test_cuda_points_follow_device_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert statuses(device="cuda")["CPU isolation"] == NOT_APPLICABLE
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (statuses()["CUDA determinism"], statuses()["CPU isolation"]) == (NOT_APPLICABLE, PASS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert (statuses()["CUDA determinism"], statuses()["CPU isolation"]) == (FAIL, FAIL)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert statuses()["CUDA determinism"] == PASS


def test_versions_are_compared_with_requirements_and_with_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    here = get_environment_info()
    assert statuses(recorded=here)["library versions"] == PASS
    other = {**here, "packages": {**here["packages"], "peft": "0.0.1"}, "cpu_model": "another"}
    point = validate(3, recorded=other)[-1]
    assert point.status == FAIL
    assert "packages.peft: 0.0.1 against" in point.found
    assert "cpu_model: another against" in point.found
    specifier = validation.get_requirements()
    name, _, asked = next(row for row in specifier if row[2])
    monkeypatch.setattr(validation, "get_requirements", lambda: iter([(name, None, asked)]))
    assert f"{name} is missing, needs {asked}" in validate(3)[-1].found


def test_how_threads_wait_makes_no_difference_and_the_instruction_set_does() -> None:
    here = get_environment_info()
    assert set(here["switches"]) == set(SWITCHES)
    assert here["cpu_model"]
    waiting = {**here, "switches": {**here["switches"], "OMP_WAIT_POLICY": "another"}, "platform": "another"}
    assert environment_differences(here, waiting) == []
    told = {**here, "switches": {**here["switches"], "ATEN_CPU_CAPABILITY": "default"}}
    assert environment_differences(here, told) == [
        f"switches.ATEN_CPU_CAPABILITY: {here['switches']['ATEN_CPU_CAPABILITY']} against default"
    ]
    assert environment_differences({}, here) == []


def test_a_record_without_an_environment_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "metadata.json", {})
    with pytest.raises(InputError, match="records no environment; give the folder of a run or a zoo"):
        recorded_environment(tmp_path)


def test_verify_prints_the_points_and_strict_makes_them_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "llgbm", "verify", "--deterministic", "--strict", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)
    os.environ.pop("PYTHONHASHSEED")
    assert main(["verify", "--deterministic"]) == 0
    assert "start Python with PYTHONHASHSEED=0" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", "--deterministic", "--strict"]) == 1
    capsys.readouterr()
    assert main(["verify", "--strict"]) == 2
    assert "--strict and --recorded are about the points of --deterministic" in capsys.readouterr().err
