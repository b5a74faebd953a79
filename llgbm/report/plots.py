"""Pictures of saved results: each function draws one figure from numbers and writes PNG and SVG."""

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from llgbm.files import whole_file
from llgbm.percent import percent
from llgbm.report.embeddings import cosine_similarities
from llgbm.zoo.suite import TaskSuite

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's palette, told apart with any color vision."""
MARKERS = {"seen": "o", "unseen_combination": "^", "unseen_value": "v", "mixture": "s"}
GRAY = "#777777"


@contextmanager
def saved_figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written as PNG and SVG, whatever suffix the path has; the same drawing gives the same bytes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "llgbm"}):
        with whole_file(path.with_suffix(".png")) as file:
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        with whole_file(path.with_suffix(".svg")) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})


def bare_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def color_of(domains: Iterable[str]) -> dict[str, str]:
    """Domain -> color, the same in every picture of the same zoo: by name; gray for mixtures (`a+b`), and where colors are out."""
    single = sorted({domain for domain in domains if "+" not in domain})
    colors = dict(zip(single, COLORS, strict=False))
    return {domain: colors.get(domain, GRAY) for domain in sorted({*domains}, key=lambda name: ("+" in name, name))}


def plot_suite(suite: TaskSuite, path: str | Path) -> None:
    """Number of tasks by domain, stacked by split."""
    counts = Counter((task.domain, task.split) for task in suite)
    domains = list(dict.fromkeys(task.domain for task in suite))
    with saved_figure(path, 7, 0.6 + 0.42 * len(domains)) as figure:
        axes = figure.subplots()
        left = np.zeros(len(domains))
        for split, color in zip(suite.task_splits, itertools.cycle(COLORS)):
            sizes = np.array([counts[domain, split] for domain in domains])
            bars = axes.barh(domains, sizes, left=left, color=color, label=split.replace("_", " "))
            axes.bar_label(bars, [str(size) if size else "" for size in sizes], label_type="center", color="white", fontweight="bold")
            left += sizes
        axes.invert_yaxis()
        axes.set_xlabel("tasks")
        axes.legend(frameon=False, loc="lower right")
        bare_axes(axes)


def plot_delta_map(
    rows: Float[np.ndarray, "K F"],
    domains: Sequence[str],
    splits: Sequence[str],
    path: str | Path,
    seed: int = 0,
    with_umap: bool = True,
) -> None:
    """The adapters in two dimensions, by t-SNE, PCA and, if wanted and installed, UMAP; color is the domain, the marker the split."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    perplexity = max(2.0, min(30.0, (len(rows) - 1) / 3))
    pca = PCA(n_components=2, random_state=seed).fit(unit)
    views = {"PCA": pca.transform(unit)}
    if with_umap and find_spec("umap"):
        views = {"UMAP": _umap(unit, seed), **views}
    if len(rows) > 4:
        views = {"t-SNE": TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(unit), **views}
    colors = color_of(domains)
    with saved_figure(path, 5.2 * len(views) + 1.8, 4.6) as figure:
        grid = np.atleast_1d(figure.subplots(1, len(views)))
        for axes, (name, points) in zip(grid, views.items(), strict=True):
            for split in dict.fromkeys(splits):
                chosen = [i for i, own in enumerate(splits) if own == split]
                axes.scatter(
                    *points[chosen].T,
                    c=[colors[domains[i]] for i in chosen],
                    marker=MARKERS.get(split, "D"),
                    s=26,
                    linewidths=0.4,
                    edgecolors="white",
                )
            axes.set_title(name)
            axes.set_xticks([])
            axes.set_yticks([])
        shares = pca.explained_variance_ratio_
        grid[-1].set_xlabel(f"PC 1 ({percent(shares[0])} of variance)")
        grid[-1].set_ylabel(f"PC 2 ({percent(shares[1])})")
        _map_legend(figure, colors, list(dict.fromkeys(splits)))


def _umap(unit: Float[np.ndarray, "K F"], seed: int) -> Float[np.ndarray, "K 2"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # its neural variant wants TensorFlow
        import umap  # an extra, and slow to import

    neighbors = min(15, len(unit) - 1)
    return umap.UMAP(n_neighbors=neighbors, metric="cosine", init="random", random_state=seed, n_jobs=1).fit_transform(unit)


def _map_legend(figure: Figure, colors: Mapping[str, str], splits: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", linestyle="", color=color, label=name) for name, color in colors.items() if "+" not in name]
    told_apart = splits if len(splits) > 1 else ()
    handles += [
        Line2D([], [], marker=MARKERS.get(split, "D"), linestyle="", color=GRAY, label=split.replace("_", " ")) for split in told_apart
    ]
    figure.legend(handles=handles, frameon=False, loc="outside right center")


def plot_similarity(rows: Float[np.ndarray, "K F"], domains: Sequence[str], path: str | Path) -> None:
    """Cosine similarity of every pair of adapters, by domain (mixtures last, together), and within a domain the alike side by side."""
    groups = ["mixtures" if "+" in domain else domain for domain in domains]
    similar = cosine_similarities(rows)
    names = sorted({*groups}, key=lambda name: (name == "mixtures", name))
    members = [_alike_together(similar, [i for i, group in enumerate(groups) if group == name]) for name in names]
    order = [i for own in members for i in own]
    bounds = np.cumsum([0, *map(len, members)])
    with saved_figure(path, 6.6, 5.6) as figure:
        axes = figure.subplots()
        image = axes.imshow(similar[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        for edge in bounds[1:-1]:
            axes.axhline(edge - 0.5, color="black", linewidth=0.8)
            axes.axvline(edge - 0.5, color="black", linewidth=0.8)
        middles = [(a + b) / 2 - 0.5 for a, b in itertools.pairwise(bounds)]
        axes.set_yticks(middles, [f"{name} ({len(own)})" for name, own in zip(names, members, strict=True)])
        axes.set_xticks(middles, names)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label="cosine similarity of delta fingerprints", shrink=0.8)


def _alike_together(similar: Float[np.ndarray, "K K"], members: Sequence[int]) -> list[int]:
    """The members in the order of a tree's leaves: average linkage on cosine distance."""
    if len(members) < 3:
        return list(members)
    distances = 1 - similar[np.ix_(members, members)].astype(np.float64)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False).clip(min=0), "average", optimal_ordering=True)
    return [members[i] for i in leaves_list(tree)]


def plot_silhouettes(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Silhouette of each embedding (`embedding`, `domain`, `task`; None where there are no such groups) as bars."""
    kinds = [kind for kind in ("domain", "task") if any(row[kind] is not None for row in rows)]
    height = 0.8 / max(len(kinds), 1)
    with saved_figure(path, 7.6, 0.9 + (0.16 + 0.28 * len(kinds)) * len(rows)) as figure:
        axes = figure.subplots()
        for number, (kind, color) in enumerate(zip(kinds, COLORS, strict=False)):
            values = [np.nan if row[kind] is None else row[kind] for row in rows]
            places = np.arange(len(rows)) + (number - (len(kinds) - 1) / 2) * height
            bars = axes.barh(places, values, height, color=color, label=f"by {kind}")
            axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=4)
        axes.set_yticks(range(len(rows)), [row["embedding"] for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.margins(x=0.14)
        axes.invert_yaxis()
        axes.set_xlabel("mean silhouette, cosine distance (1: groups lie apart, 0: they overlap)")
        if kinds:
            figure.legend(frameon=False, loc="outside upper right", ncols=2)
        bare_axes(axes)
        axes.spines["left"].set_visible(False)


def plot_layers(
    norms: Float[np.ndarray, "K layers"], domains: Sequence[str], silhouettes: Sequence[Mapping[str, float | None]], path: str | Path
) -> None:
    """By hidden state (0 the embeddings): the relative norm of the delta in each domain, and the silhouettes of the delta."""
    layers = range(norms.shape[1])
    with saved_figure(path, 10.4, 3.9) as figure:
        left, right = figure.subplots(1, 2)
        for (domain, color), marker in zip(color_of(domains).items(), itertools.cycle("o^sDvP")):
            own = norms[[i for i, name in enumerate(domains) if name == domain]]
            left.plot(layers, own.mean(0), color=color, marker=marker, label=domain)
        left.set_ylabel("norm of delta / norm of base state")
        left.set_ylim(bottom=0)
        for kind, color, marker in (("domain", COLORS[0], "o"), ("task", COLORS[1], "^")):
            points = [(layer, value) for layer, row in enumerate(silhouettes) if layer and (value := row[kind]) is not None]
            if points:
                right.plot(*zip(*points, strict=True), color=color, marker=marker, label=f"by {kind}")
        right.set_ylabel("mean silhouette of the delta")
        right.axhline(0, color="black", linewidth=0.8)
        for axes in (left, right):
            axes.set_xlabel("hidden state (0: embeddings, last: after the final norm)")
            axes.xaxis.get_major_locator().set_params(integer=True)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize="small")
            bare_axes(axes)


def plot_seconds(seconds: Mapping[str, float], title: str, path: str | Path) -> None:
    """Median seconds of each way of doing the same work, as bars from the fastest to the slowest."""
    names = sorted(seconds, key=lambda name: seconds[name])
    with saved_figure(path, 6, 0.9 + 0.42 * len(names)) as figure:
        axes = figure.subplots()
        bars = axes.barh(names, [seconds[name] for name in names], color=COLORS[0])
        axes.bar_label(bars, [f"{seconds[name]:.2g} s" for name in names], padding=4)
        axes.set_xlim(0, max(seconds.values()) * 1.12)
        axes.invert_yaxis()
        axes.set_xlabel("median seconds")
        axes.set_title(title, loc="left")
        bare_axes(axes)
