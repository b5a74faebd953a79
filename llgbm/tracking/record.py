"""The record of a run: its state, configuration, inputs and figures, in the run's folder."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from llgbm.errors import InputError
from llgbm.files import hash_json, names_its_faults, read_json, write_bytes, write_json, write_text
from llgbm.names import path_part
from llgbm.tracking.context import DIFF_FILE, MOST_DIFF_BYTES, Level, capture
from llgbm.tracking.process import Holder, is_first_process, this_process, timestamp

RUN_CONFIG = "config.yaml"
"""What every run's folder has, and no zoo's or cache's."""
RECORD_FILE, METRICS_FILE, HEARTBEAT_FILE = "metadata.json", "metrics.jsonl", "hardware.jsonl"
RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"
SILENT_S = 600.0
"""A run on another machine whose heartbeat file was not written for so long is taken for killed."""
logger = logging.getLogger(__name__)


def refuse_run(folder: str | Path, what: str) -> None:
    """InputError when a folder holds a run, whose record something else written there would replace."""
    if (Path(folder) / RUN_CONFIG).exists():
        raise InputError(f"{folder}: holds a run, with which {what} would be mixed up; give another folder")


class ExperimentLogger:
    """The record of one run under `output_dir/experiment_name/`; also a context manager that marks a failed run.

    `metadata.json` holds git, environment, process, state and times; `metrics.jsonl` one line per `log_metrics`;
    `eval_<name>.json` one evaluation; `git.diff` what is not committed. Everything but the appended metrics is written atomically.
    Of processes that were launched together the first alone writes.

    Args:
        output_dir: Where runs are.
        experiment_name: The run's folder there.
        level: How much of its surroundings is recorded, see `context`.
        checkout: A folder of the code that runs; by default the package's own.
        goes_on: It goes on from where an earlier one stopped, whose end becomes a line of `earlier`.

    Raises:
        InputError: The name cannot be a folder.
    """

    def __init__(
        self,
        output_dir: str | Path,
        experiment_name: str,
        level: Level = "standard",
        checkout: Path | None = None,
        goes_on: bool = False,
    ) -> None:
        self.folder = Path(output_dir) / path_part(experiment_name, "experiment_name")
        self.writes = is_first_process()
        self._fresh = not goes_on
        """Whether lines of an earlier attempt at the same steps may be there."""
        self._start = time.monotonic()
        context, diff = capture(level, checkout)
        self.metadata: dict[str, Any] = {
            "experiment_name": experiment_name,
            "state": RUNNING,
            "started": timestamp(),
            "process": asdict(this_process()),
            **context,
            **({"earlier": _earlier(self.folder)} if goes_on else {}),
        }
        if self.writes:
            self._keep(diff)
        self._write()

    def _keep(self, diff: str) -> None:
        """The working tree's difference, in the place of an earlier one; says that there is one."""
        (self.folder / DIFF_FILE).unlink(missing_ok=True)
        if diff:
            write_bytes(self.folder / DIFF_FILE, (diff + "\n").encode()[:MOST_DIFF_BYTES])
            commit = self.metadata["git"]["commit"][:12]
            logger.warning("the code differs from commit %s; the difference is kept in %s", commit, self.folder / DIFF_FILE)

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
        """Append one line; it reaches the disk whole or, after a crash, is recognized as torn.

        The first one takes the place of what an earlier run of this name wrote from its step on.
        """
        line = json.dumps({"step": step, **metrics}) + "\n"
        path = self.folder / METRICS_FILE
        if not self.writes:
            return
        if self._fresh:
            cut_metrics(path, step - 1)
            self._fresh = False
        with names_its_faults(path), path.open("ab") as file:
            if file.tell() and not _ends_with_newline(path):
                file.write(b"\n")  # a line that a crash tore ends here
            file.write(line.encode())

    def log_evaluation(self, name: str, results: Mapping[str, Any]) -> Path:
        """Write `eval_<name>.json`."""
        path = self.folder / path_part(f"eval_{name}.json", "evaluation")
        if self.writes:
            write_json(path, dict(results))
        return path

    def finalize(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        """Mark the run COMPLETED, with its time and last figures; what JSON cannot hold, infinite numbers too, is kept as text."""
        self._end(COMPLETED, final_metrics={str(name): _recordable(value) for name, value in (final_metrics or {}).items()})

    def fail(self, error: BaseException) -> None:
        """Mark the run FAILED and say why; where the disk does not take that either, the fault that came first is the one to be seen."""
        with suppress(OSError):
            self._end(FAILED, error=f"{type(error).__name__}: {error}")

    def _end(self, state: str, **details: Any) -> None:
        self.metadata |= {"state": state, "ended": timestamp(), "seconds": round(time.monotonic() - self._start, 3), **details}
        self._write()

    def _write(self) -> None:
        if self.writes:
            write_json(self.folder / RECORD_FILE, self.metadata)


def read_record(folder: str | Path) -> Any:
    """A run's `metadata.json`; a run that was killed before it could say so is marked FAILED from now on, where that can be written.

    Killed is one whose process this machine does not have any more, or, of another machine, whose heartbeat has stopped.

    Raises:
        InputError: There is no record, or it is no JSON.
    """
    path = Path(folder) / RECORD_FILE
    record = read_json(path)
    process = Holder.of(record.get("process")) if isinstance(record, dict) and record.get("state") == RUNNING else None
    if process is None or _goes_on(process, Path(folder) / HEARTBEAT_FILE):
        return record
    seen = datetime.fromtimestamp(_last_sign(Path(folder)), UTC).isoformat(timespec="seconds")
    error = f"killed: process {process.pid} on {process.host} is gone and did not say why; its last sign is of {seen}"
    record |= {"state": FAILED, "ended": seen, "error": error}
    with suppress(OSError):
        write_json(path, record)
    return record


def mark_killed(folder: str | Path) -> None:
    """`read_record`, where there is one, for its mark alone."""
    if (Path(folder) / RECORD_FILE).is_file():
        read_record(folder)


def is_interrupted(folder: str | Path) -> bool:
    """Whether a run has a record, and it does not say that the run came to its end."""
    return (Path(folder) / RECORD_FILE).is_file() and read_record(folder).get("state") != COMPLETED


def _goes_on(process: Holder, heartbeat: Path) -> bool:
    """Whether a run may still be on its way; without a sign of the contrary it is."""
    if process.is_here:
        return process.lives
    return not heartbeat.is_file() or time.time() - heartbeat.stat().st_mtime < SILENT_S


def _last_sign(folder: Path) -> float:
    """When a run last wrote something."""
    return max(path.stat().st_mtime for name in (RECORD_FILE, METRICS_FILE, HEARTBEAT_FILE) if (path := folder / name).is_file())


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """How the attempts before this one began and ended, oldest first."""
    if not (folder / RECORD_FILE).is_file():
        return []
    last = read_record(folder)
    return [*last.get("earlier", []), {name: last[name] for name in ("state", "started", "ended", "error") if name in last}]


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a `metrics.jsonl`; a line that a crash tore is passed over."""
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def _recordable(value: Any) -> Any:
    """The value as JSON holds it, the number in a tensor or array of one, or its text."""
    with suppress(AttributeError, RuntimeError, TypeError, ValueError):
        value = value.item()
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def cut_metrics(path: str | Path, step: int) -> None:
    """Drop the lines of a `metrics.jsonl` after a step, as well as torn ones; without the file, do nothing."""
    if Path(path).exists():
        kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row.get("step", 0) <= step]
        write_text(path, "".join(kept))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
