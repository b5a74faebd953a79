"""The record of a run: its state, configuration, inputs and figures, in the run's folder."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from llgbm.errors import InputError
from llgbm.files import hash_json, names_its_faults, write_json, write_text
from llgbm.names import path_part
from llgbm.tracking.environment import get_environment_info, get_git_info

RUN_CONFIG = "config.yaml"
"""What every run's folder has, and no zoo's or cache's."""
RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"


def refuse_run(folder: str | Path, what: str) -> None:
    """InputError when a folder holds a run, whose record something else written there would replace."""
    if (Path(folder) / RUN_CONFIG).exists():
        raise InputError(f"{folder}: holds a run, with which {what} would be mixed up; give another folder")


class ExperimentLogger:
    """The record of one run under `output_dir/experiment_name/`; also a context manager that marks a failed run.

    `metadata.json` holds git, environment, state and times; `metrics.jsonl` one line per `log_metrics`;
    `eval_<name>.json` one evaluation. Everything but the appended metrics is written atomically. InputError for a name that
    cannot be a folder.
    """

    def __init__(self, output_dir: str | Path, experiment_name: str) -> None:
        self.folder = Path(output_dir) / path_part(experiment_name, "experiment_name")
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

    def log_details(self, **details: Any) -> None:
        """Record what else the run is known by: how it was called, the points that were looked up."""
        self.metadata |= details
        self._write()

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one line; it reaches the disk whole or, after a crash, is recognized as torn."""
        line = json.dumps({"step": step, **metrics}) + "\n"
        path = self.folder / "metrics.jsonl"
        with names_its_faults(path), path.open("ab") as file:
            if file.tell() and not _ends_with_newline(path):
                file.write(b"\n")  # a line that a crash tore ends here
            file.write(line.encode())

    def log_evaluation(self, name: str, results: Mapping[str, Any]) -> Path:
        """Write `eval_<name>.json`."""
        path = self.folder / path_part(f"eval_{name}.json", "evaluation")
        write_json(path, dict(results))
        return path

    def finalize(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        """Mark the run COMPLETED, with its time and last figures."""
        self._end(COMPLETED, final_metrics=dict(final_metrics or {}))

    def fail(self, error: BaseException) -> None:
        """Mark the run FAILED and say why; where the disk does not take that either, the fault that came first is the one to be seen."""
        with suppress(OSError):
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
