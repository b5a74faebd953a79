"""The picture of what was made from what."""

from xml.etree import ElementTree

import pytest

from llgbm.report.plots_lineage import lineage_svg
from llgbm.tracking.lineage import lineage
from llgbm.tracking.store import Artifact


def artifact(ref: str, *inputs: str) -> Artifact:
    return Artifact(ref.removesuffix(":v1"), 1, "model", {}, inputs)


def texts(svg: str) -> list[str]:
    return [line for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text") for line in node.itertext()]


WORLD = [artifact("suite:v1"), artifact("zoo:v1", "suite:v1"), artifact("other:v1", "suite:v1"), artifact("model:v1", "zoo:v1", "gone:v1")]


def test_it_shows_all_and_is_the_same_whatever_the_order() -> None:
    svg = lineage_svg(lineage(WORLD))
    assert svg == lineage_svg(lineage(WORLD[::-1]))
    assert {"suite:v1", "zoo:v1", "other:v1", "model:v1", "gone:v1", "missing"} <= set(texts(svg))
    assert svg.count('id="patch_') > lineage_svg(lineage(WORLD[:2])).count('id="patch_')


def test_what_follows_from_other_arrows_is_left_out() -> None:
    short = [artifact("a:v1"), artifact("b:v1", "a:v1"), artifact("c:v1", "b:v1")]
    assert lineage_svg(lineage(short)) == lineage_svg(lineage([*short[:2], artifact("c:v1", "b:v1", "a:v1")]))


@pytest.mark.parametrize("name", ["<script>`x`", "$x^2$", 'a"];b&'])
def test_hostile_names_stay_text(name: str) -> None:
    assert f"{name}:v1" in texts(lineage_svg(lineage([Artifact(name, 1, "zoo", {})])))


def test_a_cycle_and_an_empty_store_have_pictures() -> None:
    assert {"a:v1", "b:v1"} <= set(texts(lineage_svg(lineage([artifact("a:v1", "b:v1"), artifact("b:v1", "a:v1")]))))
    assert not texts(lineage_svg(lineage([])))
