"""A recorded stage run again, in fresh processes that are set to repeat themselves, and what each of them came to."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pydantic.dataclasses import dataclass as checked

from llgbm.checking import RECORD, read_as
from llgbm.errors import InputError
from llgbm.files import read_json, write_json
from llgbm.progress import ProgressCallback
from llgbm.studies.stage import Stage
from llgbm.tracking.comparison import RunRecord


@checked(frozen=True, config=RECORD)
class StageRecords:
    """Runs of one stage, as `--record` writes them and `--against` reads them."""

    stage: str
    runs: tuple[RunRecord, ...]


def rerun(stage: Stage, runs: int, threads: int | None = None, progress: ProgressCallback | None = None) -> Iterator[RunRecord]:
    """Run a stage again, each time in a process and a folder of its own.

    Args:
        stage: What to run.
        runs: How often.
        threads: Of each process; as recorded where none are given.
        progress: Called with how many runs are done, and how many there are.

    Raises:
        RuntimeError: A run failed; it says which and why.
    """
    each: int = threads or stage.environment.get("threads") or 1
    for number in range(1, runs + 1):
        if progress is not None:
            progress(number - 1, runs, now=f"run {number}")
        with tempfile.TemporaryDirectory(prefix="llgbm-reproduce-") as place:
            command = [sys.executable, "-m", "llgbm", *stage.command(Path(place))]
            done = subprocess.run(command, env=repeatable(each, stage.device), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"run {number} failed: {done.stderr.strip().splitlines()[-1]}")
            yield stage.read(Path(place) / stage.writes, f"run {number}")
    if progress is not None:
        progress(runs, runs)


def repeatable(threads: int, device: str | None) -> dict[str, str]:
    """The environment variables of a process that repeats itself: they work only from its start."""
    fixed = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return {**os.environ, **fixed, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})}


def write_records(path: str | Path, stage: Stage, runs: list[RunRecord]) -> None:
    """Write runs to one file, which another machine can compare its own with."""
    write_json(path, {"stage": stage.kind, "runs": [asdict(run) for run in runs]})


def read_records(path: str | Path, stage: Stage) -> tuple[RunRecord, ...]:
    """Runs recorded elsewhere. InputError where the file is none of `--record`, or is about another stage."""
    found = read_as(StageRecords, read_json(path), f"{path}: not what 'llgbm reproduce --record' writes")
    if found.stage != stage.kind or not found.runs:
        raise InputError(f"{path}: has {len(found.runs)} runs of stage {found.stage}, and {stage.folder} is of stage {stage.kind}")
    return found.runs
