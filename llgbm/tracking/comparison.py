"""Two records of the same work side by side: the same to the bit, different (where, by how much), or not comparable."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from pydantic.dataclasses import dataclass as checked

from llgbm.checking import RECORD
from llgbm.tracking.validation import environment_differences

IDENTICAL, DIFFERS, INCOMPARABLE = "identical", "differs", "incomparable"
UNREPEATABLE = ("adapters_per_second",)
"""Figures of a run's metrics that say how fast it was."""

VARIES = {
    "metadata.json: started, ended, seconds": "times of day and how long it took",
    "metadata.json: git, pythonhashseed, number of processors": "change no bits where versions, instructions and threads are the same",
    "metrics.jsonl: adapters_per_second": "how fast it was",
    "config.yaml, adapter_config.json, eval_<name>.json: folders": "where inputs and outputs lie",
    "bytes of safetensors files": "their header may be ordered otherwise; tensors are compared",
}
"""What of two runs is not compared, because it may vary, and why."""


@checked(frozen=True, config=RECORD)
class RunRecord:
    """What one run of a stage was made of and came to; as JSON it can be compared with runs made elsewhere."""

    name: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    """The config's scientific fields, and content hashes of what the stage read."""
    artifacts: dict[str, str]
    """Path within the stage's folder -> SHA-256 of the file's tensors."""
    metrics: dict[str, Any]
    """The figures the stage ended with."""
    curve: tuple[dict[str, Any], ...]
    """One row for each line of the run's metrics: `step` and figures."""
    points: dict[str, tuple[dict[str, str], ...]] = field(default_factory=dict)
    """Before and after the work: the seven points of `validate`, where they were looked up."""


@dataclass(frozen=True)
class Comparison:
    """How one run compares with the one it is measured against."""

    verdict: str
    reasons: list[str] = field(default_factory=list)
    """What differs: of the environment first, then settings, metrics, curve, artifacts."""
    first_step: int | None = None
    """Where the curves part; None where they do not."""


def compare(reference: RunRecord, other: RunRecord) -> Comparison:
    """Compare two runs of the same stage.

    Runs in environments with other float bits are incomparable, whatever they came to; the rest of what differs is listed all the same.
    """
    around = [f"environment {found}" for found in environment_differences(reference.environment, other.environment)]
    step, parted = _parted(reference.curve, other.curve)
    inside = [
        *(f"setting {found}" for found in _unequal(reference.settings, other.settings)),
        *(f"metric {found}" for found in _unequal(reference.metrics, other.metrics)),
        *parted,
        *_artifacts(reference.artifacts, other.artifacts),
    ]
    verdict = INCOMPARABLE if around else DIFFERS if inside else IDENTICAL
    return Comparison(verdict, [*around, *inside], step)


def overall(found: Sequence[Comparison]) -> str:
    """The verdict on all: what differs in the same environment weighs most, then what cannot be compared."""
    verdicts = {comparison.verdict for comparison in found}
    return next(verdict for verdict in (DIFFERS, INCOMPARABLE, IDENTICAL) if verdict in verdicts)


def _unequal(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Figures that are not the same to the bit, with the difference of numbers."""
    found = []
    for name in dict.fromkeys((*one, *two)):
        left, right = one.get(name), two.get(name)
        if left == right or (_is_nan(left) and _is_nan(right)):
            continue
        by = f" (by {abs(left - right):.1e})" if isinstance(left, int | float) and isinstance(right, int | float) else ""
        found.append(f"{name}: {left} against {right}{by}")
    return found


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _parted(one: Sequence[Mapping[str, Any]], two: Sequence[Mapping[str, Any]]) -> tuple[int | None, list[str]]:
    """The first step where two curves are not the same, and what is other there."""
    for left, right in zip_longest(one, two, fillvalue={}):
        unequal = _unequal(*({k: v for k, v in row.items() if k not in UNREPEATABLE} for row in (left, right)))
        if unequal:
            step = (left or right)["step"]
            return step, [f"curves part at step {step}: {unequal[0]}"]
    return None, []


def _artifacts(one: Mapping[str, str], two: Mapping[str, str]) -> list[str]:
    """Files whose tensors are not the same, or that one run has alone."""
    found = []
    for path in sorted(one.keys() | two.keys()):
        left, right = (hashes[path][:12] if path in hashes else "absent" for hashes in (one, two))
        if one.get(path) != two.get(path):
            found.append(f"artifact {path}: {left} against {right}")
    return found
