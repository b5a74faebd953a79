"""Curves of one training run, or of several compared, from their `metrics.jsonl`: the report's charts as a file of their own."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from llgbm.errors import InputError
from llgbm.files import write_text
from llgbm.report.charts import STYLES, sheet
from llgbm.report.collect import read_curves
from llgbm.report.sections import training_curves


def draw_training(runs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Every figure that changed in training, a panel each; the path of `training.svg`.

    Raises:
        InputError: A folder without metrics, or more runs than there are looks of lines.
    """
    if len(runs) > STYLES:
        raise InputError(f"{len(runs)} runs in one picture; lines of at most {STYLES} can be told apart")
    named = []
    for run in runs:
        path = Path(run) / "metrics.jsonl"
        if not path.is_file():
            raise InputError(f"{run}: no metrics.jsonl there; give the folder of a run of 'llgbm train'")
        named.append((_label(run, runs), read_curves(path)))
    path = Path(folder) / "training.svg"
    style = files("llgbm.report").joinpath("page", "chart.css").read_text(encoding="utf-8")
    write_text(path, sheet(training_curves(named).panels, [name for name, _ in named], style))
    return [path]


def _label(run: str | Path, runs: Sequence[str | Path]) -> str:
    """The folder's name, and the one above it where two runs share a name."""
    own = Path(run).resolve()
    shared = sum(Path(other).resolve().name == own.name for other in runs) > 1
    return f"{own.parent.name}/{own.name}" if shared else own.name
