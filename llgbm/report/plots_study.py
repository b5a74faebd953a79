"""Pictures of a study: bars per variant, or a curve when the variants are numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llgbm.report.plots import COLORS, GRAY, bare_axes, saved_figure

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
    axis = result["study"]["axis"]
    if axis:
        with saved_figure(path, 6.4, 4) as figure:
            _curve(figure.subplots(), rows, splits, variants, axis)
        return
    with saved_figure(path, 3.2 + 2.6 * len(splits), 1.1 + 0.34 * len(variants)) as figure:
        all_axes = np.atleast_1d(figure.subplots(1, len(splits), sharey=True))
        for axes, split, color in zip(all_axes, splits, COLORS, strict=False):
            _bars(axes, rows, split, variants, color)


def _bars(axes: Axes, rows: Sequence[dict[str, Any]], split: str, variants: Sequence[str], color: str) -> None:
    found = {row["variant"]: row for row in rows if row["split"] == split and row["method"] == METHOD}
    for place, variant in enumerate(variants):
        row = found[variant]
        axes.barh(place, 100 * row["exact_match"], color=color, xerr=_error(row), error_kw={"ecolor": "black", "capsize": 2.5, "lw": 1})
        axes.text(106, place, f"{100 * row['exact_match']:.1f}", va="center", fontsize=8)
    for method, style in (("teacher", "--"), ("base", ":")):
        shown = [row["exact_match"] for row in rows if row["split"] == split and row["method"] == method]
        if shown:
            axes.axvline(100 * shown[0], color=GRAY, linestyle=style, lw=1, label=method)
    axes.set(yticks=range(len(variants)), yticklabels=variants, xlim=(0, 122), xlabel="exact match, %", title=split.replace("_", " "))
    axes.set_xticks(range(0, 101, 25))
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.41, -0.14), ncols=2)
    bare_axes(axes)


def _curve(axes: Axes, rows: Sequence[dict[str, Any]], splits: Sequence[str], variants: Sequence[str], label: str) -> None:
    counts = [float(variant) for variant in variants]
    for split, color, marker in zip(splits, COLORS, "o^sD", strict=False):
        found = {row["variant"]: row for row in rows if row["split"] == split and row["method"] == METHOD}
        chosen = [found[variant] for variant in variants]
        axes.plot(counts, [100 * row["exact_match"] for row in chosen], marker=marker, color=color, label=split.replace("_", " "))
        if all(row["low"] is not None for row in chosen):
            low, high = ([100 * min(1, max(0, row[end])) for row in chosen] for end in ("low", "high"))
            axes.fill_between(counts, low, high, color=color, alpha=0.2, lw=0)
    teacher = [row["exact_match"] for row in rows if row["method"] == "teacher"]
    if teacher:
        axes.axhline(100 * max(teacher), color=GRAY, linestyle="--", lw=1, label="teacher")
    axes.set(xscale="log", xlabel=label, ylabel="exact match, %", ylim=(0, 103))
    axes.set_xticks(counts, variants)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    bare_axes(axes)


def _error(row: dict[str, Any]) -> Any:
    """Distances to the interval's ends within 0 and 100%; none with one seed."""
    if row["low"] is None:
        return None
    low, high = max(0.0, row["low"]), min(1.0, row["high"])
    return [[100 * max(0.0, row["exact_match"] - low)], [100 * max(0.0, high - row["exact_match"])]]
