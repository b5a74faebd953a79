"""Pictures of `composition.json`: additivity, interpolation, composed adapters, and where they lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.report.plots import COLORS, GRAY, bare_axes, color_of, saved_figure

BOUNDS = ("base", "first_teacher", "second_teacher", "mixture_teacher")
PREDICTED_BY = ("sum", "mean", "one", "two")


def draw_composition(path: str | Path, folder: str | Path) -> list[Path]:
    """Draw everything a saved `composition.json` holds; the paths of the pictures.

    Raises:
        InputError: It is not one.
    """
    document = read_json(path)
    if not isinstance(document, dict) or not {"additivity", "interpolation", "mixtures", "interpolated", "map"} <= document.keys():
        raise InputError(f"{path}: not the findings of 'llgbm compose'; run it, or give its folder as --composition")
    drawn = {"interpolation": lambda path: plot_interpolation(document, path), "ways": lambda path: plot_ways(document, path)}
    if document["additivity"] is not None:  # else the zoo has no mixtures
        drawn["additivity"] = lambda path: plot_additivity(document["additivity"]["rows"], path)
        drawn["map"] = lambda path: plot_composed(document["map"], path)
    paths = {name: Path(folder) / f"composition_{name}.png" for name in drawn}
    for name, draw in drawn.items():
        draw(paths[name])
    return list(paths.values())


def plot_additivity(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Heat map, a row per mixture: relative distance of its fingerprint to sum, mean and either part of its parts'."""
    values = np.array([[row["distance"][way] for way in PREDICTED_BY] for row in rows])
    with saved_figure(path, 7.6, 1.3 + 0.24 * len(rows)) as figure:
        axes = figure.subplots()
        image = axes.imshow(values, cmap="viridis_r", aspect="auto", vmin=0, vmax=1.5)
        for i, j in np.ndindex(*values.shape):
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color="white" if values[i, j] > 0.8 else "black")
        axes.set_xticks(range(4), ["sum of parts", "mean of parts", "first part", "second part"], fontsize=8)
        axes.set_yticks(range(len(rows)), [_short(row["mixture"]) for row in rows], fontsize=6)
        axes.set_title("how far a mixture's fingerprint is from ...", fontsize=10)
        figure.colorbar(image, ax=axes, label="distance / length of the mixture's", extend="max")


def plot_interpolation(document: dict[str, Any], path: str | Path) -> None:
    """Exact match on both tasks from one adapter to the other, bands over pairs; beside it, the cosine to the mixtures' fingerprints."""
    geometry = document["interpolation"]
    panels = 1 if geometry is None else 2
    with saved_figure(path, 4.6 * panels, 3.7) as figure:
        left, *others = np.atleast_1d(figure.subplots(1, panels))
        points = document["interpolated"]
        shares = [point["share"] for point in points]
        lines = (("exact_one", "first task"), ("exact_two", "second task"), ("exact_match", "mean"))
        for (key, label), color in zip(lines, COLORS, strict=False):
            left.plot(shares, [100 * point[key] for point in points], color=color, label=label, marker="o", ms=3, clip_on=False, zorder=3)
            quartiles = np.array([np.quantile(point["pairs"][key], [0.25, 0.75]) for point in points])
            left.fill_between(shares, *(100 * quartiles.T), color=color, alpha=0.15, lw=0)
        left.set(xlabel="share of the second adapter", ylabel="exact match, % (band: middle half of pairs)", ylim=(0, 100))
        if geometry is not None:
            [right] = others
            overall, null = geometry["overall"], geometry["null"]
            right.plot(overall["shares"], overall["cosines"], color=COLORS[0], marker="o", ms=3, label="the mixture's own parts")
            right.plot(overall["shares"], null["median"], color=GRAY, label="random parts, 95% band")
            right.fill_between(overall["shares"], null["low"], null["high"], color=GRAY, alpha=0.25, lw=0)
            right.set(xlabel="share of the second part", ylabel="cosine to the mixture's fingerprint", ylim=(None, 1))
        for axes in (left, *others):
            axes.legend(frameon=False, fontsize=8, loc="lower center")
            bare_axes(axes)


def plot_ways(document: dict[str, Any], path: str | Path) -> None:
    """Bars: exact match over both tasks of every way to compose, with 95% intervals over pairs."""
    kinds = [(name, document[name]) for name in ("mixtures", "pairs") if document[name]]
    names = [row["way"] for row in kinds[0][1]["ways"]]
    with saved_figure(path, 3 + 3 * len(kinds), 0.9 + 0.3 * len(names)) as figure:
        for axes, (kind, scored) in zip(np.atleast_1d(figure.subplots(1, len(kinds), sharey=True)), kinds, strict=True):
            _bars(axes, scored["ways"], names)
            title = "parts of a mixture" if kind == "mixtures" else "random pairs"
            axes.set_title(f"{title} (n = {scored['ways'][0]['n_pairs']})", fontsize=10)


def plot_composed(plane: dict[str, Any], path: str | Path) -> None:
    """Fingerprints in a plane: teachers by domain, mixtures as squares, and adapters composed in several ways."""
    with saved_figure(path, 8, 5.2) as figure:
        axes = figure.subplots()
        for domain, own in color_of(point["domain"] for point in plane["adapters"]).items():
            at = np.array([point["at"] for point in plane["adapters"] if point["domain"] == domain])
            mixed = "+" in domain
            color = "none" if mixed else own
            axes.scatter(*at.T, s=34 if mixed else 16, c=color, marker="s" if mixed else "o", edgecolors="black" if mixed else "none",
                         linewidths=0.8, label=None if mixed else domain)  # fmt: skip
        axes.scatter([], [], s=34, c="none", marker="s", edgecolors="black", linewidths=0.8, label="mixture teacher")
        for (way, points), color, marker in zip(plane["composed"].items(), COLORS[3:], "x+*1234", strict=False):
            label = f"{way} (cosine to the mixture's {plane['cosine_to_mixture'][way]:.2f})"
            axes.scatter(*np.array(points).T, s=36, color=color, marker=marker, linewidths=1.1, label=label)
        axes.set(xlabel="first principal component", ylabel="second principal component")
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        bare_axes(axes)


def _bars(axes: Axes, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for row in rows:
        place = names.index(row["way"])
        error = [[100 * (row["exact_match"] - row["low"])], [100 * (row["high"] - row["exact_match"])]]
        color = GRAY if row["way"] in BOUNDS else COLORS[0]
        axes.barh(place, 100 * row["exact_match"], color=color, alpha=0.85, xerr=np.abs(error), error_kw={"capsize": 2.5, "lw": 1})
        axes.text(106, place, f"{100 * row['exact_match']:.1f}", va="center", ha="left", fontsize=8)
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 122), xlabel="exact match on both tasks, %")
    axes.set_xticks(range(0, 101, 25))
    axes.set_ylim(len(names) - 0.4, -0.6)
    bare_axes(axes)


def _short(path: str) -> str:
    """The task of a teacher's path, without its domain and seed."""
    return Path(path).parent.name if Path(path).name.startswith("seed") else path
