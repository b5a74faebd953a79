"""What was made from what: the graph of a store's artifacts, checked and drawn."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import networkx as nx

from llgbm.errors import InputError
from llgbm.tracking.store import Artifact


def lineage(artifacts: Iterable[Artifact], of: str | None = None) -> nx.DiGraph:
    """A graph from inputs to what was made from them; nodes are references with `kind` and `size`.

    Args:
        artifacts: All of a store.
        of: Only this artifact, all it was made from, and all made from it.

    Raises:
        InputError: `of` is none of them.
    """
    graph: nx.DiGraph = nx.DiGraph()
    for artifact in artifacts:
        graph.add_node(artifact.ref, kind=artifact.kind, size=artifact.size)
        graph.add_edges_from((ref, artifact.ref) for ref in artifact.inputs)
    if of is None:
        return graph
    if of not in graph:
        raise InputError(f"no artifact {of} in this lineage; it has {', '.join(sorted(graph)[:5])} ...")
    return graph.subgraph({of, *nx.ancestors(graph, of), *nx.descendants(graph, of)}).copy()


def lineage_faults(graph: nx.DiGraph) -> list[str]:
    """References to what is not there, and cycles."""
    missing = sorted(ref for ref, values in graph.nodes(data=True) if "kind" not in values)
    faults = [f"{ref} is missing, {', '.join(sorted(graph.successors(ref)))} was made from it" for ref in missing]
    return faults + [f"{' -> '.join([*cycle, cycle[0]])}: made from itself" for cycle in map(_from_least, nx.simple_cycles(graph))]


def orphans(graph: nx.DiGraph) -> list[str]:
    """Artifacts made from nothing, and from which nothing was made."""
    return sorted(nx.isolates(graph))


def _from_least(cycle: Sequence[str]) -> list[str]:
    start = cycle.index(min(cycle))
    return [*cycle[start:], *cycle[:start]]


def to_dot(graph: nx.DiGraph) -> str:
    """Graphviz."""
    nodes = [f"  {_quoted(ref)} [label={_quoted(_label(ref, values))}];" for ref, values in sorted(graph.nodes(data=True))]
    edges = [f"  {_quoted(a)} -> {_quoted(b)};" for a, b in sorted(graph.edges)]
    return "\n".join(["digraph lineage {", "  rankdir=LR;", "  node [shape=box];", *nodes, *edges, "}"]) + "\n"


def to_mermaid(graph: nx.DiGraph) -> str:
    """Mermaid, as Markdown pages draw it."""
    ids = {ref: f"n{i}" for i, ref in enumerate(sorted(graph))}
    nodes = [f'  {ids[ref]}["{_escaped(_label(ref, values))}"]' for ref, values in sorted(graph.nodes(data=True))]
    edges = [f"  {ids[a]} --> {ids[b]}" for a, b in sorted(graph.edges)]
    return "\n".join(["flowchart LR", *nodes, *edges]) + "\n"


def to_json(graph: nx.DiGraph) -> str:
    """Nodes and edges."""
    nodes = [{"ref": ref, **values} for ref, values in sorted(graph.nodes(data=True))]
    return json.dumps({"nodes": nodes, "edges": sorted(map(list, graph.edges))}, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[nx.DiGraph], str]] = {"dot": to_dot, "mermaid": to_mermaid, "json": to_json}


def _label(ref: str, values: Mapping[str, Any]) -> str:
    return f"{ref} ({values.get('kind', 'missing')})"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """Mermaid's way to write what it would read as its own."""
    return "".join(c if c.isalnum() or c in " -_.:()/" else f"#{ord(c)};" for c in text)
