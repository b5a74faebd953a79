"""The benchmarks of tracking measure what they say, on a run and a file small enough for a test."""

from pathlib import Path

from training_world import build_world

from llgbm.bench.tracking import bench_store, bench_tracking
from llgbm.config import ExperimentConfig


def test_a_run_without_and_with_tracking(tmp_path: Path) -> None:
    figures = bench_tracking(build_world(tmp_path), steps=3, pairs=2)
    assert (figures["steps"], figures["steps_of_whole_run"], len(figures["pairs"])) == (3, 6, 2)
    assert all(figures[f"{name}_{clock}"] > 0 for name in ("without", "with", "store") for clock in ("s", "cpu_s"))
    assert figures["overhead"] > figures["training_overhead"]
    assert figures["overhead_cpu"] > figures["training_overhead_cpu"]


def test_a_file_into_the_store_and_by_tools() -> None:
    figures = bench_store(ExperimentConfig(), size_bytes=1 << 20, pairs=3)
    assert len(figures["pairs"]) == 3
    assert all(figures[name] > 0 for name in ("store_s", "tools_s", "synced_s", "store_to_tools", "store_to_tools_cpu", "store_to_synced"))
