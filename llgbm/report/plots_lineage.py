"""A picture of what was made from what: one column for each step from the first inputs."""

from io import StringIO

import networkx as nx
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from llgbm.report.plots import COLORS, GRAY

COLUMN_IN, ROW_IN, CHARACTER_IN, MARGIN_IN = 0.7, 0.75, 0.085, 0.25
"""Space between columns; height of a row; width of a character; space around the picture."""


def lineage_svg(graph: nx.DiGraph) -> str:
    """The graph as SVG; the same graph gives the same bytes.

    What is missing is dashed, what was made from itself shares a column, and arrows that follow from others are left out.
    """
    columns = _columns(graph)
    labels = {ref: f"{ref}\n{values.get('kind', 'missing')}" for ref, values in graph.nodes(data=True)}
    widths = [max(len(ref) for ref in column) * CHARACTER_IN + 0.2 for column in columns]
    height = max((len(column) for column in columns), default=1) * ROW_IN + 2 * MARGIN_IN
    width = sum(widths) + COLUMN_IN * max(0, len(columns) - 1) + 2 * MARGIN_IN
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    kinds = sorted({values["kind"] for _, values in graph.nodes(data=True) if "kind" in values})
    color = {kind: COLORS[place % len(COLORS)] for place, kind in enumerate(kinds)}
    at, left = {}, MARGIN_IN
    for column, wide in zip(columns, widths, strict=True):
        for row, ref in enumerate(column):
            at[ref] = (left + wide / 2, height / 2 + (row - (len(column) - 1) / 2) * ROW_IN)
        left += wide + COLUMN_IN
    drawn = {}
    for ref, place in at.items():
        kind = graph.nodes[ref].get("kind")
        edge = GRAY if kind is None else color[kind]
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": edge, "linestyle": "--" if kind is None else "-"}
        drawn[ref] = axes.text(place[0], place[1], labels[ref], ha="center", va="center", fontsize=8, bbox=box, parse_math=False, zorder=2)
    figure.draw_without_rendering()  # boxes get their sizes
    shown = nx.transitive_reduction(graph) if nx.is_directed_acyclic_graph(graph) else graph
    for source, target in sorted(shown.edges):
        arrow = {"arrowstyle": "->", "color": GRAY, "patchA": drawn[source].get_bbox_patch(), "patchB": drawn[target].get_bbox_patch()}
        axes.annotate("", at[target], at[source], arrowprops=arrow, zorder=1)
    text = StringIO()
    with rc_context({"svg.hashsalt": "llgbm", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _columns(graph: nx.DiGraph) -> list[list[str]]:
    """References by the longest way from a first input; those of one cycle are together."""
    whole = nx.condensation(graph)
    return [sorted(ref for part in step for ref in whole.nodes[part]["members"]) for step in nx.topological_generations(whole)]
