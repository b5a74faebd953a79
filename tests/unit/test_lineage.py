"""The graph of what was made from what."""

import json
import re

import networkx as nx
import pytest

from llgbm.errors import InputError
from llgbm.tracking.lineage import FORMATS, lineage, lineage_faults, orphans
from llgbm.tracking.store import Artifact


def artifact(ref: str, *inputs: str) -> Artifact:
    name, _, version = ref.partition(":v")
    return Artifact(name, int(version), "model", {}, inputs)


WORLD = [
    artifact("suite:v1"),
    artifact("zoo:v1", "suite:v1"),
    artifact("model:v1", "zoo:v1"),
    artifact("eval:v1", "model:v1"),
    artifact("x:v1"),
]


def test_edges_lead_from_inputs_to_what_was_made() -> None:
    graph = lineage(WORLD)
    assert set(graph.edges) == {("suite:v1", "zoo:v1"), ("zoo:v1", "model:v1"), ("model:v1", "eval:v1")}
    assert list(nx.topological_sort(lineage(WORLD, "zoo:v1"))) == ["suite:v1", "zoo:v1", "model:v1", "eval:v1"]
    assert orphans(graph) == ["x:v1"]
    assert lineage_faults(graph) == []
    with pytest.raises(InputError, match="no artifact model:v2 in this lineage; it has eval:v1"):
        lineage(WORLD, "model:v2")


def test_cycles_and_what_is_missing_are_found() -> None:
    graph = lineage([artifact("a:v1", "c:v1"), artifact("b:v1", "a:v1"), artifact("c:v1", "b:v1"), artifact("d:v1", "gone:v3", "d:v1")])
    assert lineage_faults(graph) == [
        "gone:v3 is missing, d:v1 was made from it",
        *sorted(["a:v1 -> b:v1 -> c:v1 -> a:v1: made from itself", "d:v1 -> d:v1: made from itself"], key=lineage_faults(graph).index),
    ]


def test_every_format_says_all_and_is_the_same_whatever_the_order() -> None:
    graph, turned = lineage(WORLD), lineage(WORLD[::-1])
    for write in FORMATS.values():
        assert write(graph) == write(turned)
        assert all(one.ref in write(graph) for one in WORLD)
    assert json.loads(FORMATS["json"](graph))["edges"][0] == ["model:v1", "eval:v1"]
    assert FORMATS["dot"](graph).count("->") == FORMATS["mermaid"](graph).count("-->") == 3


def test_hostile_names_stay_text() -> None:
    graph = lineage([Artifact('a"];b', 1, "<script>`x`", {})])
    assert '"a\\"];b:v1" [label="a\\"];b:v1 (<script>`x`)"];' in FORMATS["dot"](graph)
    assert re.search(r'n0\["a#34;#93;#59;b:v1 \(#60;script#62;#96;x#96;\)"\]', FORMATS["mermaid"](graph))
