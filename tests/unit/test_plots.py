"""Pictures: the same bytes from the same numbers, one color per domain, nothing cut off at 100%."""

import numpy as np
from matplotlib.lines import Line2D

from llgbm.report import plots_study
from llgbm.report.plots import COLORS, GRAY, _alike_together, color_of, plot_similarity, saved_figure


def test_the_same_numbers_give_the_same_files(tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    domains = ["code", "math", "code", "math", "code+math", "math", "code"]
    for name in ("one", "two"):
        plot_similarity(rows, domains, tmp_path / f"{name}.png")
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert "mixtures (1)" in (tmp_path / "one.svg").read_text()


def test_a_domain_has_one_color_in_whatever_order_adapters_come():
    assert color_of(["math", "code", "code+math"]) == color_of(["code+math", "code", "math"])
    assert color_of(["math", "code", "code+math"]) == {"code": COLORS[0], "math": COLORS[1], "code+math": GRAY}


def test_alike_adapters_lie_side_by_side():
    similar = np.eye(4, dtype=np.float32)
    similar[0, 2] = similar[2, 0] = similar[1, 3] = similar[3, 1] = 0.9
    order = _alike_together(similar, [0, 1, 2, 3])
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1


def test_marks_at_100_percent_are_drawn_whole(tmp_path):
    rows = [{"variant": f"a, {n}", "split": "seen", "method": "generated", "score": 1.0, "low": None, "high": None} for n in (15, 30)]
    study = plots_study.Study("s", "smoke", {"a, 15": {}, "a, 30": {}}, axis="seen tasks")
    with saved_figure(tmp_path / "curves.png", 3, 3) as figure:
        axes = figure.subplots()
        plots_study._curves(axes, rows, study, {})
        curve = next(line for line in axes.get_lines() if isinstance(line, Line2D) and line.get_label() == "generated")
    assert axes.get_ylim() == (0, 100)
    assert not curve.get_clip_on()


def test_a_study_of_generators_alone_is_drawn_without_a_legend(tmp_path):
    rows = [{"variant": name, "split": "seen", "method": "generated", "score": 0.5, "low": None, "high": None} for name in ("a", "b")]
    study = {"name": "s", "config": "smoke", "variants": {"a": {}, "b": {}}}
    plots_study.plot_study({"study": study, "rows": rows}, tmp_path / "s.png")
    texts = (tmp_path / "s.svg").read_text()
    assert "<!-- exact match, % -->" in texts
    assert "<!-- teacher -->" not in texts
