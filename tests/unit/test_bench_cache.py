"""The benchmark of a large cache measures what it says, on a small one."""

from llgbm.bench.cache import ADDED, bench_cache
from llgbm.config import ExperimentConfig


def test_figures_of_a_small_cache() -> None:
    figures = bench_cache(ExperimentConfig(), entries=300)
    assert (figures["entries"], figures["added"], figures["found"]) == (300, ADDED, True)
    assert all(value > 0 for value in figures.values())
