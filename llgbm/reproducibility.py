"""What makes a result repeatable: seeds, the state of code and machine, content hashes, and the record of a run."""

import json
import os
import platform
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from llgbm.artifacts import hash_file, hash_json, hash_tensors, read_json, write_json, write_text
from llgbm.errors import InputError

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "scikit-learn")
RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"


def set_seed(seed: int, deterministic: bool = True) -> None:
    """Seed Python, numpy and torch (all devices); with `deterministic`, also ask torch for deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def get_git_info() -> dict[str, Any]:
    """Commit, branch and whether the working tree differs, of the checkout the package runs from; None where there is none."""
    folder = Path(__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "branch": None, "dirty": None}
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(_git(folder, "status", "--porcelain")),
    }


def get_environment_info() -> dict[str, Any]:
    """Versions, processor, threads and accelerator: what changes float bits from one machine to another."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "cuda": torch.version.cuda,
        "pythonhashseed": os.environ.get("PYTHONHASHSEED"),
    }


def compute_model_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a model's weights."""
    return hash_tensors(model.state_dict())


def compute_delta_cache_hash(cache_dir: str | Path) -> str:
    """SHA-256 over the configuration of a delta cache, its entries' keys and their bytes; paths do not count.

    Raises:
        InputError: The folder is no delta cache, or a file of it is gone.
    """
    manifest = read_json(Path(cache_dir) / "manifest.json")
    if not isinstance(manifest, dict) or not {"adapters", "config"} <= manifest.keys():
        raise InputError(f"{cache_dir}: not a delta cache (its manifest lists no adapters)")
    try:
        entries = sorted([record["key"], hash_file(Path(cache_dir) / record["file"])] for record in manifest["adapters"].values())
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: gone from the delta cache; 'llgbm compute-deltas' computes it anew") from error
    return hash_json([manifest["config"], entries])


def verify_reproducibility(
    config_path: str | Path, checkpoint_path: str | Path, expected_metrics: Mapping[str, float], tolerance: float = 0.01
) -> bool:
    """Rerun the evaluation of a generator and compare.

    Args:
        config_path: The run's `config.yaml`.
        checkpoint_path: The generator's folder.
        expected_metrics: `split/method/metric` -> value, e.g. `{"unseen_combination/generated/exact_match": 0.9}`.
        tolerance: Largest absolute difference.

    Returns:
        Whether every expected metric came out within the tolerance.

    Raises:
        InputError: A name is not split/method/metric, or the evaluation has no such split, method or metric.
    """
    from llgbm.config import ExperimentConfig
    from llgbm.evaluation.task_eval import EvaluationConfig, evaluate

    wanted = [name.split("/") for name in expected_metrics]
    if not wanted or any(len(parts) != 3 for parts in wanted):
        raise InputError("expected metrics are named split/method/metric, e.g. seen/teacher/exact_match; give at least one")
    splits, methods = (tuple(dict.fromkeys(parts[i] for parts in wanted)) for i in (0, 1))
    config = ExperimentConfig.load(config_path)
    needed = tuple(dict.fromkeys((*methods, "base", "teacher"))) if any(p[2] == "gain_recovered" for p in wanted) else methods
    choices = EvaluationConfig(splits=splits, methods=needed, device=config.model.device, dtype=config.model.dtype)
    results = evaluate(checkpoint_path, config.checkpoint_folder, choices).to_json()["splits"]
    for (split, method, metric), expected in zip(wanted, expected_metrics.values(), strict=True):
        scores = results[split][method]
        if metric not in scores:
            raise InputError(f"metric {metric!r} is not computed; choose one of {', '.join(scores)}")
        if scores[metric] is None or abs(scores[metric] - expected) > tolerance:
            return False
    return True


class ExperimentLogger:
    """The record of one run under `output_dir/experiment_name/`; also a context manager that marks a failed run.

    `metadata.json` holds git, environment, state and times; `metrics.jsonl` one line per `log_metrics`;
    `eval_<name>.json` one evaluation. Everything but the appended metrics is written atomically.
    """

    def __init__(self, output_dir: str | Path, experiment_name: str) -> None:
        self.folder = Path(output_dir) / experiment_name
        self.metadata: dict[str, Any] = {
            "experiment_name": experiment_name,
            "state": RUNNING,
            "started": _now(),
            "git": get_git_info(),
            "environment": get_environment_info(),
        }
        self._start = time.monotonic()
        self._write()

    def __enter__(self) -> "ExperimentLogger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.fail(error)
        elif self.metadata["state"] == RUNNING:
            self.finalize()

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record the configuration and its hash."""
        self.metadata |= {"config": dict(config), "config_hash": hash_json(dict(config))[:8]}
        self._write()

    def log_inputs(self, **hashes: str) -> None:
        """Record the content hashes of what the run reads."""
        self.metadata["inputs"] = {**self.metadata.get("inputs", {}), **hashes}
        self._write()

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one line; it reaches the disk whole or, after a crash, is recognized as torn."""
        line = json.dumps({"step": step, **metrics}) + "\n"
        with (self.folder / "metrics.jsonl").open("ab") as file:
            if file.tell() and not _ends_with_newline(self.folder / "metrics.jsonl"):
                file.write(b"\n")  # a line that a crash tore ends here
            file.write(line.encode())

    def log_evaluation(self, name: str, results: Mapping[str, Any]) -> Path:
        """Write `eval_<name>.json`."""
        path = self.folder / f"eval_{name}.json"
        write_json(path, dict(results))
        return path

    def finalize(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        """Mark the run COMPLETED, with its time and last figures."""
        self._end(COMPLETED, final_metrics=dict(final_metrics or {}))

    def fail(self, error: BaseException) -> None:
        """Mark the run FAILED and say why."""
        self._end(FAILED, error=f"{type(error).__name__}: {error}")

    def _end(self, state: str, **details: Any) -> None:
        self.metadata |= {"state": state, "ended": _now(), "seconds": round(time.monotonic() - self._start, 3), **details}
        self._write()

    def _write(self) -> None:
        write_json(self.folder / "metadata.json", self.metadata)


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a `metrics.jsonl`; a line that a crash tore is passed over."""
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def cut_metrics(path: str | Path, step: int) -> None:
    """Drop the lines of a `metrics.jsonl` after a step, as well as torn ones; without the file, do nothing."""
    if Path(path).exists():
        kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row.get("step", 0) <= step]
        write_text(path, "".join(kept))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
