"""Seven points that decide whether a run repeats to the bit, each looked up in this process, with what to do about it."""

import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.tracking.environment import get_environment_info, get_requirements, set_seed

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"
WORKSPACES = (":4096:8", ":16:8")
"""Settings of CUBLAS_WORKSPACE_CONFIG under which cuBLAS repeats itself (NVIDIA, cuBLAS, results reproducibility)."""
COMPARED = ("python_version", "torch_version", "cuda_version", "gpu_name", "cpu_model", "cpu_capability", "threads", "packages", "switches")
"""What of an environment changes float bits."""
WITHOUT_BITS = ("switches.OMP_WAIT_POLICY", "switches.GOMP_SPINCOUNT", "switches.OMP_NUM_THREADS", "switches.MKL_NUM_THREADS")
"""Switches that change no bits: how threads wait, and how many there are, which `threads` says."""


@dataclass(frozen=True)
class Point:
    """One point of the seven."""

    point: str
    status: str
    """`pass`, `fail` or `not applicable`."""
    found: str
    mend: str = ""
    """What to do where it fails."""


def validate(seed: int, device: str = "cpu", threads: int = 1, recorded: Mapping[str, Any] | None = None) -> list[Point]:
    """The seven points of this process.

    Args:
        seed: What Python, NumPy and torch should have been seeded with just now.
        device: Where work is asked to run.
        threads: How many threads it is asked to use.
        recorded: The environment of a recorded run to have the same versions as; else the package's requirements count.
    """
    versions = _requirements() if recorded is None else _as_recorded(recorded)
    return [_hashes(), _cuda(), _threads(threads), _torch(), _isolation(device), _seeds(seed), versions]


def look_up(seed: int, device: str, again: bool = False) -> list[dict[str, str]]:
    """The seven points for a run's record, with as many threads as torch uses; some 20 ms.

    Args:
        seed: As `validate`.
        device: As `validate`.
        again: After the work, which has drawn from the generators: they are seeded anew for the look and then put back.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    if again:
        set_seed(seed, deterministic=False)
    found = [asdict(point) for point in validate(seed, device, torch.get_num_threads())]
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return found


def failed_points(points: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """What a record's points say is not as it should be, before and after the work."""
    return [
        f"{when} the work, {point['point']}: {point['found']}; {point['mend']}"
        for when, looked_up in points.items()
        for point in looked_up
        if point["status"] == FAIL
    ]


def recorded_environment(folder: str | Path) -> dict[str, Any]:
    """The environment a run or zoo was made in. InputError where its `metadata.json` has none."""
    record = read_json(Path(folder) / "metadata.json")
    found = record.get("environment") if isinstance(record, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{folder}/metadata.json: records no environment; give the folder of a run or a zoo")
    return found


def environment_differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """What changes float bits and is not the same in two environments; what only one of them recorded does not count."""
    left, right = _flat(one), _flat(two)
    return [f"{name}: {left[name]} against {right[name]}" for name in left if name in right and left[name] != right[name]]


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in COMPARED:
        value = environment.get(name, {})
        found |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return {name: value for name, value in found.items() if name not in WITHOUT_BITS}


def _hashes() -> Point:
    name, given = "hash randomization", os.environ.get("PYTHONHASHSEED", "")
    if given.isdecimal() and not sys.flags.ignore_environment:
        return Point(name, PASS, f"PYTHONHASHSEED={given}")
    return Point(name, FAIL, "strings hash otherwise in every process", "start Python with PYTHONHASHSEED=0; once it runs it is too late")


def _cuda() -> Point:
    name = "CUDA determinism"
    if not torch.cuda.is_available():
        return Point(name, NOT_APPLICABLE, "no CUDA device")
    workspace, cudnn = os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.backends.cudnn
    found = f"CUBLAS_WORKSPACE_CONFIG={workspace}, cudnn.benchmark={cudnn.benchmark}, deterministic={cudnn.deterministic}"
    fixed = not cudnn.benchmark and (cudnn.deterministic or torch.are_deterministic_algorithms_enabled())
    mend = "set CUBLAS_WORKSPACE_CONFIG=:4096:8 before the start, and call set_seed"
    return Point(name, PASS, found) if workspace in WORKSPACES and fixed else Point(name, FAIL, found, mend)


def _threads(asked: int) -> Point:
    given = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    found = ", ".join([f"torch uses {torch.get_num_threads()}", *(f"{name}={value}" for name, value in given.items())])
    right = torch.get_num_threads() == asked and set(given.values()) == {str(asked)}
    mend = f"set OMP_NUM_THREADS={asked} MKL_NUM_THREADS={asked} before the start"
    return Point("OMP/MKL threads", PASS, found) if right else Point("OMP/MKL threads", FAIL, found, mend)


def _torch() -> Point:
    name = "torch deterministic mode"
    if torch.are_deterministic_algorithms_enabled():
        return Point(name, PASS, "on" + (", warns only" if torch.is_deterministic_algorithms_warn_only_enabled() else ""))
    return Point(name, FAIL, "off", "call set_seed(seed), or torch.use_deterministic_algorithms(True)")


def _isolation(device: str) -> Point:
    name = "CPU isolation"
    if device != "cpu":
        return Point(name, NOT_APPLICABLE, f"asked to run on {device}")
    if torch.version.cuda is None or not torch.cuda.is_available():
        return Point(name, PASS, "torch is built without CUDA" if torch.version.cuda is None else "no CUDA device is visible")
    return Point(name, FAIL, f"{torch.cuda.device_count()} CUDA devices are visible", "set CUDA_VISIBLE_DEVICES= (empty) before the start")


def _seeds(seed: int) -> Point:
    numpy_state = np.random.get_state(legacy=False)["state"]  # type: ignore[call-overload,index]
    fresh = np.random.RandomState(seed % 2**32).get_state(legacy=False)["state"]  # type: ignore[call-overload,index]
    same = {
        "Python": random.getstate() == random.Random(seed).getstate(),
        "NumPy": np.array_equal(numpy_state["key"], fresh["key"]) and numpy_state["pos"] == fresh["pos"],
        "torch": torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state()),
    }
    off = ", ".join(name for name, right in same.items() if not right)
    if not off:
        return Point("seeds in sync", PASS, f"Python, NumPy and torch are at the start of seed {seed}")
    return Point("seeds in sync", FAIL, f"not at the start of seed {seed}: {off}", f"call set_seed({seed}) right before the work")


def _requirements() -> Point:
    wrong = [
        f"{name} {version or 'is missing'}, needs {asked}"
        for name, version, asked in get_requirements()
        if version is None or not asked.contains(version, prereleases=True)
    ]
    mend = "install the package again with its constraints.txt"
    return _versions(wrong, "as the package requires them", mend)


def _as_recorded(recorded: Mapping[str, Any]) -> Point:
    wrong = environment_differences(recorded, get_environment_info())
    return _versions(
        wrong, "as recorded, processor and switches too", "install what was recorded, on such a processor, or expect other bits"
    )


def _versions(wrong: list[str], right: str, mend: str) -> Point:
    return Point("library versions", FAIL, "; ".join(wrong), mend) if wrong else Point("library versions", PASS, right)
