"""What a run folder holds, read into one record and checked; nothing is computed, and a part that is not there is None or empty.

A run that was killed is marked as one when it is read.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llgbm.dotted import flatten
from llgbm.errors import InputError
from llgbm.evaluation.answers import ANSWERS_FILE, read_answers
from llgbm.evaluation.lm_eval import BACKEND
from llgbm.evaluation.task_eval import read_evaluation
from llgbm.files import hash_file, read_json, read_yaml
from llgbm.tracking.record import HEARTBEAT_FILE, METRICS_FILE, RECORD_FILE, RUNNING, read_record
from llgbm.tracking.trackers import TRACKING

REPORT_FILE = "report.html"
TORN = object()
UNHASHED = ("checkpoints", TRACKING)
"""Folders of a run whose files are not listed: many and large, and not results."""
COMPARED = {"split", "other", "difference", "low", "high", "p_value", "p_holm", "n_units", "unit", "clusters"}
"""What each comparison of an evaluation has."""
PICTURES = (".svg", ".png")


@dataclass(frozen=True)
class Artifact:
    """One file a run left."""

    path: str
    """Below the run folder, with slashes."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Metrics:
    """The whole lines of a `metrics.jsonl`: each figure's (step, value) pairs in the order of steps."""

    figures: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    last_step: int = 0
    torn_lines: int = 0
    """Lines a crash cut off, passed over."""


@dataclass(frozen=True)
class Run:
    """Everything saved about one run."""

    folder: Path
    name: str
    state: str
    """RUNNING, COMPLETED or FAILED; UNKNOWN without metadata."""
    metadata: dict[str, Any]
    config: dict[str, Any]
    """By dotted name."""
    metrics: Metrics
    hardware: Metrics
    """What the machine gave, by seconds."""
    training: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]
    """By the name in `eval_<name>.json`."""
    answers: dict[str, Any] | None
    pictures: dict[str, Path]
    """Stem -> file in `figures/`; SVG before PNG."""
    zoo: dict[str, Any] | None
    """The manifest of the zoo the config names, if it is there."""
    artifacts: list[Artifact]

    @property
    def unfinished(self) -> bool:
        return self.state == RUNNING


@dataclass(frozen=True)
class CompositionFindings:
    """What `llgbm compose` left in a folder."""

    folder: Path
    documents: dict[str, Any]
    """File stem -> JSON document."""
    pictures: dict[str, Path]
    artifacts: list[Artifact]


def collect_run(folder: str | Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: The folder is no run, or a file in it is not what its name says.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("config.yaml", "metadata.json")):
        raise InputError(f"{folder}: not a run (no config.yaml, no metadata.json); give a folder that 'llgbm train' wrote")
    metadata = _object(folder / RECORD_FILE, read_record(folder)) if (folder / RECORD_FILE).is_file() else {}
    config = flatten(read_yaml(folder / "config.yaml")) if (folder / "config.yaml").is_file() else metadata.get("config", {})
    answers = folder / ANSWERS_FILE
    return Run(
        folder=folder,
        name=str(metadata.get("experiment_name") or config.get("experiment_name") or folder.name),
        state=str(metadata.get("state", "UNKNOWN")),
        metadata=metadata,
        config=config,
        metrics=read_curves(folder / METRICS_FILE),
        hardware=read_curves(folder / HEARTBEAT_FILE, "second"),
        training=_read_object(folder / "training.json"),
        evaluations={path.stem.removeprefix("eval_"): _read_scores(path) for path in sorted(folder.glob("eval_*.json")) if _is_own(path)},
        answers=read_answers(answers) if answers.is_file() else None,
        pictures=_pictures(folder / "figures"),
        zoo=_read_zoo(config.get("checkpoint_folder")),
        artifacts=_artifacts(folder),
    )


def collect_composition(folder: str | Path) -> CompositionFindings | None:
    """Read a folder of composition results; None when there are none."""
    folder = Path(folder)
    documents = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    return CompositionFindings(folder, documents, _pictures(folder, folder / "figures"), _artifacts(folder)) if documents else None


def read_curves(path: Path, key: str = "step") -> Metrics:
    """Each figure's values by step; where a resumed run logged a step twice, the later line counts.

    Args:
        path: A file of JSON lines; without it there are none.
        key: The figure that counts.

    Raises:
        InputError: A line is no JSON object with a step, unless it is the beginning of one that a crash tore off.
    """
    by_step: dict[int, dict[str, float]] = {}
    torn = 0
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], 1):
        row = _parsed(line)
        if row is TORN:
            torn += 1
            continue
        if not isinstance(row, dict) or not isinstance(row.get(key), int):
            raise InputError(f"{path}:{number}: not a line of metrics (expected a JSON object with an integer {key}); remove or mend it")
        by_step[row[key]] = {name: float(value) for name, value in row.items() if name != key and _is_figure(value)}
    figures: dict[str, list[tuple[int, float]]] = {}
    for step in sorted(by_step):
        for name, value in by_step[step].items():
            figures.setdefault(name, []).append((step, value))
    return Metrics(figures, max(by_step, default=0), torn)


def _parsed(line: bytes) -> Any:
    """The value of a line; TORN for the beginning of an object, None for anything else."""
    try:
        return json.loads(line)
    except UnicodeDecodeError:
        return None
    except json.JSONDecodeError as error:
        begun = line.startswith(b"{") and not line.rstrip().endswith(b"}") and error.msg != "Extra data"
        return TORN if begun else None


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty when there is no file."""
    return _object(path, read_json(path) if path.is_file() else {})


def _object(path: Path, value: Any) -> dict[str, Any]:
    """What a file held, seen to be an object."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}; the command that made the folder writes it anew")
    return value


def _is_own(path: Path) -> bool:
    """Whether a file is no evaluation by lm-evaluation-harness, whose tasks are others."""
    document = read_json(path)
    return not (isinstance(document, dict) and document.get("backend") == BACKEND)


def _read_scores(path: Path) -> dict[str, Any]:
    """An evaluation whose every score is there."""
    document = read_evaluation(path)
    try:
        for methods in document["splits"].values():
            for name, summary in methods.items():
                if not all(map(_is_figure, (summary["score"], summary["low"], summary["high"]))):
                    raise InputError(f"{path}: the score of {name} or its interval is not a number; write it anew")
        whole = all({"split", "task"} <= row.keys() and all(map(_is_figure, row["score"].values())) for row in document["tasks"])
        whole = whole and all(row.keys() >= COMPARED for row in document.get("comparisons", []))
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError(
            f"{path}: not a whole evaluation (a split, task or comparison lacks its figures); write it anew with 'llgbm evaluate'"
        )
    return document


def _read_zoo(folder: object) -> dict[str, Any] | None:
    path = Path(str(folder)) / "manifest.json"
    if not folder or not path.is_file():
        return None
    return {**_read_object(path), "folder": str(folder), "manifest_hash": hash_file(path)}


def _pictures(*folders: Path) -> dict[str, Path]:
    """Stem -> picture; a PNG gives way to the SVG of its name."""
    found = (path for folder in folders for suffix in reversed(PICTURES) for path in sorted(folder.glob(f"*{suffix}")))
    return {path.stem: path for path in found}


def _artifacts(folder: Path) -> list[Artifact]:
    """Every file but checkpoints, hidden files and reports themselves, by path."""
    files = [path for path in folder.rglob("*") if path.is_file() and not _is_left_out(path.relative_to(folder))]
    return [Artifact(path.relative_to(folder).as_posix(), path.stat().st_size, hash_file(path)) for path in sorted(files)]


def _is_left_out(path: Path) -> bool:
    return path.suffix == ".html" or path.parts[0] in UNHASHED or any(part.startswith(".") for part in path.parts)
