"""Pictures of a study: bars per variant, or curves when the variants are numbers of a line."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llgbm.checking import read_as
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.report.leaderboard import BENCHMARKS, Entry
from llgbm.report.plots import COLORS, GRAY, bare_axes, saved_figure
from llgbm.studies.variants import RESULT_FILE, Study

METHOD = "generated"
RIVALS = (*COLORS[2:6], COLORS[7])
"""Of curves of methods beside the generators', which have the first colors; yellow is too pale for a thin line."""
DASHES = {"teacher": "--", "base": ":", "few_shot": "-."}
"""Methods that no number of an axis changes."""


def plot_study(result: dict[str, Any], path: str | Path) -> None:
    """A study's means with 95% intervals over seeds: bars per variant and split, or curves beside those of its other methods.

    Args:
        result: The content of a `study.json`.
        path: Written as PNG and SVG.
    """
    rows = result["rows"]
    splits = list(dict.fromkeys(row["split"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    study = Study(**result["study"])
    if study.axis:
        _plot_curves([(study, [row for row in rows if row["split"] == split], split.replace("_", " ")) for split in splits], path)
        return
    with saved_figure(path, 3.2 + 2.6 * len(splits), 1.1 + 0.34 * len(variants)) as figure:
        all_axes = np.atleast_1d(figure.subplots(1, len(splits), sharey=True))
        for axes, split, color in zip(all_axes, splits, COLORS, strict=False):
            _bars(axes, rows, split, variants, color)


def draw_studies(folders: Sequence[str | Path], split: str, output_dir: str | Path) -> list[Path]:
    """Curves of several studies on one split, side by side; the picture's path.

    Args:
        folders: Of studies with an axis, each with its `study.json`.
        split: What all of them were asked.
        output_dir: Where `studies.png` and `studies.svg` go.

    Raises:
        InputError: There is no study, it has no axis, or was not asked the split.
    """
    panels = []
    for folder in folders:
        path = Path(folder) / RESULT_FILE
        result = read_json(path)
        if not isinstance(result, dict) or not {"study", "rows"} <= result.keys():
            raise InputError(f"{path}: not the result of 'llgbm ablate'")
        study = read_as(Study, result["study"], str(path))
        if study.axis is None:
            raise InputError(f"{path}: the study has no axis, so no curves; its own picture is {path.with_suffix('.png')}")
        rows = [row for row in result["rows"] if row["split"] == split]
        if not rows:
            splits = dict.fromkeys(row["split"] for row in result["rows"])
            raise InputError(f"{path}: the study has no figures of split {split!r}; it has {', '.join(splits) or 'none'}")
        panels.append((study, rows, f"{study.title or study.name}: {split.replace('_', ' ')}"))
    path = Path(output_dir) / "studies.png"
    _plot_curves(panels, path)
    return [path]


def draw_leaderboard(entries: Sequence[Entry], benchmarks: Sequence[str], axis: str, path: str | Path) -> None:
    """Curves of benchmarks whose columns are numbers, side by side, of all entries that have every column.

    Args:
        entries: Of a leaderboard; generators are those with a cost.
        benchmarks: A panel for each.
        axis: What the numbers count.
        path: Written as PNG and SVG.

    Raises:
        InputError: A benchmark has no such entry.
    """
    _plot_curves([_panel(benchmark, entries, axis) for benchmark in benchmarks], path)


def _panel(benchmark: str, entries: Sequence[Entry], axis: str) -> tuple[Study, list[dict[str, Any]], str]:
    """A benchmark's entries as the study whose curves they make, its rows, and a title."""
    own = [entry for entry in entries if entry.benchmark == benchmark]
    columns = {column for entry in own for column in entry.figures}
    rows = []
    for entry in own:
        if entry.figures.keys() != columns:
            continue
        method = entry.entry if entry.cost == "-" else METHOD
        for column, figure in entry.figures.items():
            ends = {end: None if value is None else value / 100 for end, value in (("low", figure.low), ("high", figure.high))}
            rows.append({"variant": f"{entry.entry}, {column}", "method": method, "score": figure.mean / 100, **ends})
    if not rows:
        raise InputError(f"benchmark {benchmark}: no entry of the leaderboard has every column, so no curve")
    study = Study(benchmark, "", {row["variant"]: {} for row in rows}, axis=axis)
    return study, rows, BENCHMARKS[benchmark].partition(", ")[0]


def _plot_curves(panels: Sequence[tuple[Study, list[dict[str, Any]], str]], path: str | Path) -> None:
    """A panel for each study, its rows of one split, and title; a method has one color in all of them."""
    rivals = dict.fromkeys(row["method"] for _, rows, _ in panels for row in rows if row["method"] not in {METHOD, *DASHES})
    colors = dict(zip(rivals, cycle(RIVALS), strict=False))
    with saved_figure(path, 1.2 + 3.6 * len(panels), 4.6) as figure:
        all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axes, (study, rows, title) in zip(all_axes, panels, strict=True):
            _curves(axes, rows, study, colors)
            axes.set_title(title)
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
        all_axes[0].set_ylabel("exact match, %")


def _bars(axes: Axes, rows: Sequence[dict[str, Any]], split: str, variants: Sequence[str], color: str) -> None:
    found = {row["variant"]: row for row in rows if row["split"] == split and row["method"] == METHOD}
    for place, variant in enumerate(variants):
        row = found[variant]
        axes.barh(place, 100 * row["score"], color=color, xerr=error_ends(row), error_kw={"ecolor": "black", "capsize": 2.5, "lw": 1})
        axes.text(106, place, f"{100 * row['score']:.1f}", va="center", fontsize=8)
    lines = {row["method"]: row["score"] for row in rows if row["split"] == split and row["method"] in ("teacher", "base")}
    for method, score in lines.items():
        axes.axvline(100 * score, color=GRAY, linestyle=DASHES[method], lw=1, label=method)
    axes.set(yticks=range(len(variants)), yticklabels=variants, xlim=(0, 122), xlabel="exact match, %", title=split.replace("_", " "))
    axes.set_xticks(range(0, 101, 25))
    axes.set_ylim(len(variants) - 0.4, -0.6)
    if lines:
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.41, -0.14), ncols=2)
    bare_axes(axes)


def _curves(axes: Axes, rows: Sequence[dict[str, Any]], study: Study, colors: Mapping[str, str]) -> None:
    """One curve with its band for each line of the study, thin ones for rivals of its first line, and what no number changes."""
    curves: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        line, number = study.place(row["variant"])
        curves.setdefault((row["method"], line if row["method"] == METHOD else ""), {}).setdefault(number, row)
    own = {line: found for (method, line), found in curves.items() if method == METHOD}
    for (line, found), color, marker in zip(own.items(), COLORS, "o^sD", strict=False):
        counts, label = [float(number) for number in found], line if len(own) > 1 else METHOD
        axes.plot(counts, [100 * row["score"] for row in found.values()], marker=marker, color=color, label=label, clip_on=False, zorder=3)
        if all(row["low"] is not None for row in found.values()):
            low, high = ([100 * min(1, max(0, row[end])) for row in found.values()] for end in ("low", "high"))
            axes.fill_between(counts, low, high, color=color, alpha=0.2, lw=0)
    others = {method: found for (method, _), found in curves.items() if method != METHOD}
    for method in [method for method in colors if method in others]:
        scores = [100 * row["score"] for row in others[method].values()]
        axes.plot([float(number) for number in others[method]], scores, marker=".", lw=1, color=colors[method], label=method)
    for method in [method for method in DASHES if method in others]:
        score = max(row["score"] for row in others[method].values())
        axes.axhline(100 * score, color=GRAY, linestyle=DASHES[method], lw=1, label=method)
    numbers = sorted({study.place(row["variant"])[1] for row in rows}, key=float)
    axes.set(xscale="log", xlabel=study.axis, ylim=(0, 100))
    axes.set_xticks([float(number) for number in numbers], numbers)
    axes.minorticks_off()
    bare_axes(axes)


def error_ends(row: Mapping[str, Any]) -> Any:
    """Distances to the interval's ends within 0 and 100%; none with one seed."""
    if row["low"] is None:
        return None
    low, high = max(0.0, row["low"]), min(1.0, row["high"])
    return [[100 * max(0.0, row["score"] - low)], [100 * max(0.0, high - row["score"])]]
