"""A recorded stage run again, in fresh processes that are set to repeat themselves, and what each of them came to."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as checked
from safetensors.torch import load_file

from llgbm.checking import RECORD, read_as
from llgbm.config import ExperimentConfig, build, content
from llgbm.dotted import merge
from llgbm.errors import InputError
from llgbm.files import hash_tensors, read_json, write_json
from llgbm.progress import ProgressCallback
from llgbm.tracking.comparison import RunRecord
from llgbm.tracking.record import RUN_CONFIG, read_metrics
from llgbm.tracking.validation import recorded_environment
from llgbm.zoo.manifest import is_zoo, load_manifest, read_manifest

ZOO_STAGE, TRAINED = "zoo", ("generator", "soft_prompt")
"""Stages that can be run again: teachers of a zoo, and what `llgbm train --network` trains."""


@checked(frozen=True, config=RECORD)
class StageRecords:
    """Runs of one stage, as `--record` writes them and `--against` reads them."""

    stage: str
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Stage:
    """A stage as its folder records it."""

    kind: str
    """`zoo`, or what was trained: `generator` or `soft_prompt`."""
    folder: Path
    config: ExperimentConfig

    def command(self, config: Path, folder: Path) -> list[str]:
        """The command line that runs it with a config's file into a folder."""
        if self.kind == ZOO_STAGE:
            return ["zoo", "build", "--config", str(config), "--zoo", str(folder), "--quiet", "--json"]
        return ["train", "--config", str(config), "--network", self.kind, "--run", str(folder), "--quiet", "--json"]


def read_stage(folder: str | Path) -> Stage:
    """What a folder holds. InputError where it is neither a zoo nor a finished run of `llgbm train`, or does not record its config."""
    folder = Path(folder)
    if is_zoo(folder):
        recorded = read_json(folder / "metadata.json").get("config")
        if recorded is None:
            raise InputError(
                f"{folder}/metadata.json: records no config, so the zoo cannot be built again; build it with 'llgbm zoo build'"
            )
        together = load_manifest(folder).get("zoo", {}).get("adapters_per_batch")
        config = build(merge({}, recorded), source=f"{folder}/metadata.json")
        zoo = replace(config.zoo, adapters_per_batch=together or config.zoo.adapters_per_batch)
        return Stage(ZOO_STAGE, folder, replace(config, zoo=zoo))
    kind = next((kind for kind in TRAINED if (folder / kind).is_dir()), None)
    if kind is None or not (folder / RUN_CONFIG).is_file():
        raise InputError(f"{folder}: neither a zoo nor a finished run of 'llgbm train'; give the folder of one")
    return Stage(kind, folder, ExperimentConfig.load(folder / RUN_CONFIG))


def read_run(stage: Stage, folder: Path, name: str) -> RunRecord:
    """What a folder of this stage came to."""
    recorded = read_json(folder / "metadata.json")
    settings = {**content(stage.config), **recorded.get("config", {})}
    settings |= {f"input {key}": value for key, value in recorded.get("inputs", {}).items()}
    if stage.kind == ZOO_STAGE:
        manifest = read_manifest(folder)
        settings["batches"] = [list(batch) for batch in manifest.batches]
        metrics: dict[str, Any] = {f"exact_match {t.path}": t.exact_match for t in manifest.teachers}
        metrics |= {f"steps {t.path}": t.steps for t in manifest.teachers}
        curve: tuple[dict[str, Any], ...] = ()
    else:
        metrics, curve = read_json(folder / "training.json"), tuple(read_metrics(folder / "metrics.jsonl"))
    unused = {"gpu_name": None} if stage.config.model.device == "cpu" else {}
    return RunRecord(name, {**recorded_environment(folder), **unused}, settings, _hashes(stage, folder), metrics, curve)


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
    each: int = threads or recorded_environment(stage.folder).get("threads") or 1
    for number in range(1, runs + 1):
        if progress is not None:
            progress(number - 1, runs, now=f"run {number}")
        with tempfile.TemporaryDirectory(prefix="llgbm-reproduce-") as place:
            config, folder = stage.config.save(Path(place) / "config.yaml"), Path(place) / "run"
            command = [sys.executable, "-m", "llgbm", *stage.command(config, folder)]
            done = subprocess.run(command, env=repeatable(each, stage.config.model.device), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"run {number} failed: {done.stderr.strip().splitlines()[-1]}")
            yield read_run(stage, folder, f"run {number}")
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


def _hashes(stage: Stage, folder: Path) -> dict[str, str]:
    """Of what the stage wrote; a run's folder holds what later stages made, too."""
    written = [folder] if stage.kind == ZOO_STAGE else [folder / stage.kind, folder / "checkpoints"]
    files = sorted(path for part in written for path in part.rglob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): hash_tensors(load_file(path)) for path in files}
