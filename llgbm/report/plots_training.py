"""Curves of one training run, or of several compared, from their `metrics.jsonl`."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from llgbm.errors import InputError
from llgbm.report.collect import read_curves
from llgbm.report.plots import COLORS, GRAY, bare_axes, saved_figure

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""Run -> figure -> (step, value)."""
STYLES = ("-", "--", ":", "-.")


def draw_training(runs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """One figure: loss terms, exact match and likelihood on held-back tasks, learning rate, and rate; its path.

    Raises:
        InputError: A folder without metrics.
    """
    curves = {}
    for run in runs:
        path = Path(run) / "metrics.jsonl"
        if not path.is_file():
            raise InputError(f"{run}: no metrics.jsonl there; give the folder of a run of 'llgbm train'")
        curves[_label(run, runs)] = read_curves(path).figures
    path = Path(folder) / "training.png"
    terms = list(dict.fromkeys(name for figures in curves.values() for name in figures if name.startswith("loss/")))
    with saved_figure(path, 11, 6.4) as figure:
        all_axes = figure.subplots(2, 3).flatten()
        _terms(all_axes[0], curves, terms)
        for axes, (key, label) in zip(
            all_axes[1:],
            (
                ("validation/exact_match", "exact match on held-back tasks"),
                ("validation/nll", "nats per token on held-back tasks"),
                ("loss", "weighted loss"),
                ("lr", "learning rate"),
                ("adapters_per_second", "adapters per second"),
            ),
            strict=True,
        ):
            _line(axes, curves, key, label)
    return [path]


def _terms(axes: Axes, curves: Curves, terms: Sequence[str]) -> None:
    """Unweighted terms by color, runs by line style."""
    for figures, style in zip(curves.values(), _cycled(STYLES, len(curves)), strict=True):
        for term, color in zip(terms, _cycled(COLORS, len(terms)), strict=True):
            if term in figures:
                axes.plot(*zip(*figures[term], strict=True), color=color, linestyle=style, lw=1.2)
    for term, color in zip(terms, _cycled(COLORS, len(terms)), strict=True):
        axes.plot([], [], color=color, label=term.removeprefix("loss/"))
    for run, style in zip(curves, _cycled(STYLES, len(curves)) if len(curves) > 1 else [], strict=False):
        axes.plot([], [], color=GRAY, linestyle=style, label=run)
    axes.set(xlabel="step", title="terms, unweighted", yscale="log")
    axes.legend(frameon=False, fontsize=7)
    bare_axes(axes)


def _line(axes: Axes, curves: Curves, key: str, label: str) -> None:
    for (run, figures), color in zip(curves.items(), _cycled(COLORS, len(curves)), strict=True):
        if key in figures:
            marker = "o" if key.startswith("validation") else None
            axes.plot(*zip(*figures[key], strict=True), color=color, marker=marker, ms=4, lw=1.2, label=run)
    axes.set(xlabel="step", title=label)
    axes.set_ylim(bottom=0)
    if len(curves) > 1 and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7)
    bare_axes(axes)


def _label(run: str | Path, runs: Sequence[str | Path]) -> str:
    """The folder's name, and the one above it where two runs share a name."""
    own = Path(run).resolve()
    shared = sum(Path(other).resolve().name == own.name for other in runs) > 1
    return f"{own.parent.name}/{own.name}" if shared else own.name


def _cycled(values: Sequence[str], count: int) -> list[str]:
    return [values[i % len(values)] for i in range(count)]
