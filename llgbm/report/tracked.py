"""What a tracker gets of a training or an evaluation when it is done: a picture and a table, from what was saved."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llgbm.files import read_json
from llgbm.report.collect import Metrics, read_curves
from llgbm.report.plots import COLORS, bare_axes, saved_figure
from llgbm.report.plots_study import error_ends
from llgbm.report.sections import TITLES
from llgbm.report.table import words
from llgbm.tracking.process import is_first_process
from llgbm.tracking.record import METRICS_FILE
from llgbm.tracking.trackers import TRACKERS

COLUMNS = 3
"""Panels beside each other."""


def send_training(tracker: str, folder: Path) -> None:
    """Send a run's curves, the pictures in its folder, and what `training.json` says; `none` gets nothing.

    Raises:
        InputError: The tracker does not begin, or a file of the run is damaged.
    """
    if tracker == "none" or not is_first_process():
        return
    with tempfile.TemporaryDirectory() as drawn, TRACKERS[tracker](folder) as entry:
        curves = Path(drawn) / "training.png"
        plot_curves(read_curves(folder / METRICS_FILE), curves)
        for path in (curves, *sorted((folder / "figures").glob("*.png"))):
            entry.picture(path.stem, path)
        entry.table("training", [read_json(folder / "training.json")])


def send_evaluation(tracker: str, folder: Path, name: str, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Send the scores of an evaluation (`splits` of its file) to the entry of the run in a folder; `none` gets nothing.

    Raises:
        InputError: The tracker does not begin.
    """
    if tracker == "none" or not is_first_process():
        return
    rows = [{"split": split, "method": method, **summary} for split, methods in splits.items() for method, summary in methods.items()]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with tempfile.TemporaryDirectory() as drawn, TRACKERS[tracker](folder) as entry:
        path = Path(drawn) / f"{name}.png"
        plot_scores(splits, path)
        entry.picture(path.stem, path)
        entry.table(name, [{column: row.get(column) for column in columns} for row in rows])


def plot_curves(metrics: Metrics, path: Path) -> None:
    """Every figure by step, a panel each; those that never change are left out unless nothing else is there."""
    changing = {name: points for name, points in metrics.figures.items() if len({value for _, value in points}) > 1}
    figures = changing or metrics.figures
    n_rows = -(-len(figures) // COLUMNS)
    with saved_figure(path, 3.6 * COLUMNS, 2.6 * n_rows) as figure:
        panels = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
        for axes, (name, points) in zip(panels, figures.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=COLORS[0])
            axes.set_title(TITLES.get(name, words(name)), fontsize=9)
            bare_axes(axes)
        for axes in panels[len(figures) :]:
            axes.set_axis_off()


def plot_scores(splits: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The score of every method with its interval, a panel for each split."""
    methods = list(dict.fromkeys(method for found in splits.values() for method in found))
    with saved_figure(path, 2.4 + 2.4 * len(splits), 1.1 + 0.3 * len(methods)) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(splits), sharey=True))
        for axes, (split, found) in zip(panels, splits.items(), strict=True):
            for place, summary in ((place, found[method]) for place, method in enumerate(methods) if method in found):
                axes.barh(place, 100 * summary["score"], color=COLORS[0], xerr=error_ends(summary))
            axes.set(xlim=(0, 100), title=words(split), xlabel="score, %")
            axes.set_yticks(range(len(methods)), [words(method) for method in methods])
            bare_axes(axes)
        panels[0].invert_yaxis()
