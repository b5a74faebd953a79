"""Pictures of a study: bars per variant, or curves when the variants are numbers of a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llgbm.report.plots import COLORS, GRAY, bare_axes, saved_figure
from llgbm.studies.variants import Study

METHOD = "generated"


def plot_study(result: dict[str, Any], path: str | Path) -> None:
    """Exact match of the generated adapters per variant and split, with 95% intervals over seeds, beside base and teachers.

    Args:
        result: The content of a `study.json`.
        path: Written as PNG and SVG.
    """
    rows = result["rows"]
    splits = list(dict.fromkeys(row["split"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    if result["study"]["axis"]:
        study = Study(**result["study"])
        with saved_figure(path, 1.2 + 3.6 * len(splits), 3.8) as figure:
            all_axes = np.atleast_1d(figure.subplots(1, len(splits), sharey=True))
            for axes, split in zip(all_axes, splits, strict=True):
                _curves(axes, [row for row in rows if row["split"] == split], study)
                axes.set_title(split.replace("_", " "))
            all_axes[0].set_ylabel("exact match, %")
            all_axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
        return
    with saved_figure(path, 3.2 + 2.6 * len(splits), 1.1 + 0.34 * len(variants)) as figure:
        all_axes = np.atleast_1d(figure.subplots(1, len(splits), sharey=True))
        for axes, split, color in zip(all_axes, splits, COLORS, strict=False):
            _bars(axes, rows, split, variants, color)


def _bars(axes: Axes, rows: Sequence[dict[str, Any]], split: str, variants: Sequence[str], color: str) -> None:
    found = {row["variant"]: row for row in rows if row["split"] == split and row["method"] == METHOD}
    for place, variant in enumerate(variants):
        row = found[variant]
        axes.barh(place, 100 * row["score"], color=color, xerr=error_ends(row), error_kw={"ecolor": "black", "capsize": 2.5, "lw": 1})
        axes.text(106, place, f"{100 * row['score']:.1f}", va="center", fontsize=8)
    for method, style in (("teacher", "--"), ("base", ":")):
        shown = [row["score"] for row in rows if row["split"] == split and row["method"] == method]
        if shown:
            axes.axvline(100 * shown[0], color=GRAY, linestyle=style, lw=1, label=method)
    axes.set(yticks=range(len(variants)), yticklabels=variants, xlim=(0, 122), xlabel="exact match, %", title=split.replace("_", " "))
    axes.set_xticks(range(0, 101, 25))
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.41, -0.14), ncols=2)
    bare_axes(axes)


def _curves(axes: Axes, rows: Sequence[dict[str, Any]], study: Study) -> None:
    """One curve with its band for each line of the study."""
    lines: dict[str, dict[str, dict[str, Any]]] = {}
    for row in (row for row in rows if row["method"] == METHOD):
        line, number = study.place(row["variant"])
        lines.setdefault(line, {})[number] = row
    for (line, found), color, marker in zip(lines.items(), COLORS, "o^sD", strict=False):
        counts = [float(number) for number in found]
        axes.plot(counts, [100 * row["score"] for row in found.values()], marker=marker, color=color, label=line, clip_on=False, zorder=3)
        if all(row["low"] is not None for row in found.values()):
            low, high = ([100 * min(1, max(0, row[end])) for row in found.values()] for end in ("low", "high"))
            axes.fill_between(counts, low, high, color=color, alpha=0.2, lw=0)
    for method, style in (("teacher", "--"), ("base", ":")):
        shown = [row["score"] for row in rows if row["method"] == method]
        if shown:
            axes.axhline(100 * max(shown), color=GRAY, linestyle=style, lw=1, label=method)
    numbers = sorted({number for found in lines.values() for number in found}, key=float)
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
