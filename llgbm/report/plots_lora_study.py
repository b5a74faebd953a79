"""Pictures of a study of LoRA against full fine-tuning: drift by layer and step, drift over training, scores, times of serving."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from llgbm.report.plots import GRAY, bare_axes, saved_figure
from llgbm.study.config import Method
from llgbm.study.deployment import BackendFindings
from llgbm.study.drift import RunDrift, TaskDrift
from llgbm.study.serving_times import MERGED
from llgbm.study.statistics import interval

METHODS: tuple[Method, ...] = ("full", "lora")
NAMES = {"full": "full fine-tuning", "lora": "LoRA"}
METHOD_COLORS = {"full": "#D55E00", "lora": "#0072B2"}
METHOD_MARKERS = {"full": "s", "lora": "o"}
WAY_COLORS = ("#777777", "#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
MOST_TICKS = 6


def plot_drift_map(tasks: Sequence[TaskDrift], path: str | Path) -> None:
    """CKA to the base by layer (upwards) and step (to the right), mean over seeds: a row per task, a column per method."""
    methods: list[Method] = [method for method in METHODS if any(run.method == method for task in tasks for run in task.runs)]
    maps = {(task.task, method): _mean_map(task.runs, method) for task in tasks for method in methods}
    lowest = min((float(np.nanmin(likeness)) for _, likeness in filter(None, maps.values())), default=0.0)
    floor = min(0.99, np.floor(20 * lowest) / 20)
    with saved_figure(path, 1.6 + 3.4 * len(methods), 0.9 + 2.1 * len(tasks)) as figure:
        grid = figure.subplots(len(tasks), len(methods), squeeze=False)
        image = None
        for row, task in zip(grid, tasks, strict=True):
            for axes, method in zip(row, methods, strict=True):
                drawn = maps[task.task, method]
                if drawn is None:
                    axes.text(0.5, 0.5, "no finished run", ha="center", color=GRAY, transform=axes.transAxes)
                    axes.set_axis_off()
                    continue
                steps, likeness = drawn
                image = axes.imshow(likeness.T, origin="lower", aspect="auto", cmap="viridis", vmin=floor, vmax=1, interpolation="nearest")
                places = np.unique(np.linspace(0, len(steps) - 1, MOST_TICKS).round().astype(int))
                axes.set_xticks(places, [str(steps[place]) for place in places])
                layers = np.unique(np.linspace(0, task.n_layers, MOST_TICKS).round().astype(int))
                axes.set_yticks(layers, ["emb." if layer == 0 else str(layer) for layer in layers])
                axes.tick_params(labelsize=8)
                axes.set_title(f"{task.task}, {NAMES[method]}", fontsize=9)
            row[0].set_ylabel("layer", fontsize=9)
        for axes in grid[-1]:
            axes.set_xlabel("optimizer step", fontsize=9)
        if image is not None:
            figure.colorbar(image, ax=grid, label="CKA with the base", shrink=min(1.0, 1.6 / len(tasks)))


def plot_drift_curves(tasks: Sequence[TaskDrift], path: str | Path) -> None:
    """Per task: drift (1 - CKA, mean over the counted layers) over training above, by layer at its end below; bands: range of seeds."""
    with saved_figure(path, 0.8 + 3.3 * len(tasks), 5.2) as figure:
        grid = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            counted = [layer for layer in range(1, task.n_layers + 1) if layer not in task.left_out]
            for method in METHODS:
                runs = [run for run in task.runs if run.method == method]
                _band(grid[0][column], method, [(run.steps, 1 - _array(run)[:, counted].mean(1)) for run in runs])
                _band(grid[1][column], method, [(range(task.n_layers + 1), 1 - _array(run)[-1]) for run in runs])
            grid[0][column].set(title=task.task, xlabel="optimizer step")
            grid[0][column].title.set_fontsize(10)
            grid[1][column].set(xlabel="layer (0: embeddings), at the end")
        for row in grid:
            row[0].set_ylabel("drift, 1 - CKA")
        for axes in grid.flat:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            bare_axes(axes)
        grid[0][0].legend(frameon=False, fontsize=8)


def plot_scores(cells: dict[str, dict[Method, np.ndarray]], metrics: dict[str, str], baselines: dict[str, float], path: str | Path) -> None:
    """Mean score per task and method with its 95% interval over test examples, small dots for single seeds, a tick for the baseline.

    Args:
        cells: Task -> method -> scores [S, N].
        metrics: Task -> name of its metric.
        baselines: Task -> the best score that needs no training, where it is known.
        path: Written as PNG and SVG.
    """
    with saved_figure(path, 7.2, 1.1 + 0.75 * len(cells)) as figure:
        axes = figure.subplots()
        for place, (task, of_task) in enumerate(cells.items()):
            for shift, method in zip((-0.16, 0.16), METHODS, strict=True):
                scores = of_task[method]
                mean, (low, high) = float(scores.mean()), interval([scores], seeds_too=False)
                color = METHOD_COLORS[method]
                axes.plot(100 * scores.mean(1), [place + shift] * len(scores), ".", color=color, alpha=0.45, markersize=5, clip_on=False)
                axes.errorbar(
                    100 * mean, place + shift, xerr=[[100 * (mean - low)], [100 * (high - mean)]], color=color, capsize=3, lw=1.5,
                    fmt=METHOD_MARKERS[method], markersize=6, clip_on=False, label=NAMES[method] if place == 0 else None,
                )  # fmt: skip
            if task in baselines:
                label = "best without training" if task == next(iter(baselines)) else None
                axes.plot([100 * baselines[task]] * 2, [place - 0.32, place + 0.32], ":", color=GRAY, lw=2, label=label)
        axes.set(yticks=range(len(cells)), yticklabels=[f"{task}\n{metrics[task].replace('_', ' ')}" for task in cells])
        axes.set(xlim=(0, 100), xlabel="score, %", ylim=(len(cells) - 0.5, -0.5))
        axes.tick_params(axis="y", labelsize=9)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.03, 1))
        bare_axes(axes)


def plot_latency(backends: Sequence[BackendFindings], path: str | Path) -> None:
    """Median time of a batch by batch size and way, whiskers to the 95th percentile, and its ratio to the merged model's over the bars."""
    shown = [one for one in backends if one.servings]
    with saved_figure(path, 10, 0.4 + 2.8 * len(shown)) as figure:
        grid = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, one in zip(grid, shown, strict=True):
            _bars(axes, one)
            axes.set_title(f"{one.model}, {one.backend}", fontsize=10, loc="left")
        grid[-1].set_xlabel("batch size")
        grid[0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _bars(axes: Axes, one: BackendFindings) -> None:
    ways = list(dict.fromkeys(serving.way for serving in one.servings))
    sizes = sorted({serving.batch_size for serving in one.servings})
    width = 0.86 / len(ways)
    for w, (way, color) in enumerate(zip(ways, WAY_COLORS, strict=False)):
        of_way = {serving.batch_size: serving for serving in one.servings if serving.way == way}
        for place, size in enumerate(sizes):
            serving, x = of_way[size], place + (w - (len(ways) - 1) / 2) * width
            middle, far = serving.latency_ms["p50"], serving.latency_ms["p95"]
            axes.bar(x, middle, width * 0.92, color=color, label=way if place == 0 else None)
            axes.plot([x, x], [middle, far], color=GRAY, lw=1)
            if way != MERGED:
                axes.text(x, far * 1.06, f"{serving.ratio:.1f}", ha="center", fontsize=6.5)
    axes.set_yscale("log")
    low = min(serving.latency_ms["p50"] for serving in one.servings)
    high = max(serving.latency_ms["p95"] for serving in one.servings)
    axes.set(xticks=range(len(sizes)), xticklabels=sizes, ylabel="ms per batch", ylim=(low / 2, high * 1.6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    bare_axes(axes)


def _mean_map(runs: Sequence[RunDrift], method: Method) -> tuple[list[int], np.ndarray] | None:
    """Steps that all seeds have in common, and the mean CKA there [steps, L+1]."""
    chosen = [run for run in runs if run.method == method]
    if not chosen:
        return None
    steps = sorted(set.intersection(*(set(run.steps) for run in chosen)))
    return steps, np.mean([_array(run)[[run.steps.index(step) for step in steps]] for run in chosen], axis=0)


def _array(run: RunDrift) -> np.ndarray:
    """CKA [steps, L+1]."""
    return np.array(run.cka, dtype=float)


def _band(axes: Axes, method: Method, curves: Sequence[tuple[Sequence[int], np.ndarray]]) -> None:
    """Mean over seeds where all have a point, and their range."""
    if not curves:
        return
    common = sorted(set.intersection(*(set(places) for places, _ in curves)))
    values = np.array([[curve[list(places).index(place)] for place in common] for places, curve in curves])
    axes.plot(common, values.mean(0), color=METHOD_COLORS[method], marker=METHOD_MARKERS[method], markersize=3.5, label=NAMES[method])
    axes.fill_between(common, values.min(0), values.max(0), color=METHOD_COLORS[method], alpha=0.2, lw=0)
