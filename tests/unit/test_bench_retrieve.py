"""The retrieval benchmark measures what it says, on a zoo small enough for a test."""

from pathlib import Path

from training_world import build_world

from llgbm.bench import retrieve
from llgbm.bench.retrieve import bench_retrieve, write_copies
from llgbm.lora.peft_io import read_adapter
from llgbm.zoo.base import load_base
from llgbm.zoo.folder import TeacherZoo


def test_figures_of_two_sizes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(retrieve, "QUERIES", 4)
    figures = bench_retrieve(build_world(tmp_path, n_tasks=3), sizes=(8, 12))
    assert [row["adapters"] for row in figures["rows"]] == [8, 12]
    for row in figures["rows"]:
        assert row["deltas_s"] > 0
        assert row["graph_recall"] == 1
        assert row["exact_search_ms"] < 50


def test_copies_are_near_their_teacher_and_all_different(tmp_path: Path) -> None:
    config = build_world(tmp_path, n_tasks=3)
    zoo = TeacherZoo.load(config.checkpoint_folder)
    paths = write_copies(zoo, load_base(config.model.name), tmp_path / "copies", 7)
    copies = [read_adapter(path) for path in paths]
    assert len({copy.content_hash() for copy in copies}) == 7
    teachers = zoo.factors(zoo.teachers)
    for k, copy in enumerate(copies):
        for name, a in copy.a.items():
            assert 0 < (a[0] - teachers.a[name][k % 3]).std() < 0.1 * teachers.a[name].std()
