"""Stages on a Ray cluster of two nodes, one of whose workers is killed: the bits of one process, and nothing done twice."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fanout_workers import Squares
from logged_workers import LoggedMeasuring, LoggedTeaching, lines

from llgbm.bench.fanout import bench_fanout
from llgbm.cli import main
from llgbm.config import ExperimentConfig, LoRAConfig, ZooConfig
from llgbm.delta import DeltaCache, Measuring, fill_cache
from llgbm.errors import InputError
from llgbm.fanout.crew import Job
from llgbm.fanout.local import Local
from llgbm.fanout.ray import RayEngine, Seat, require_answer
from llgbm.files import hash_file
from llgbm.lora.peft_io import find_adapters
from llgbm.probes import load_probes
from llgbm.zoo import build
from llgbm.zoo.build import build_zoo
from llgbm.zoo.micro.world import micro_suite

pytestmark = pytest.mark.slow
STORE_BYTES = 100 * 2**20


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with two nodes of one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def engine(address: str) -> Iterator[RayEngine]:
    """Its workers find the modules of tests."""
    with pytest.MonkeyPatch.context() as patch, RayEngine(address, 2, Seat(1)) as engine:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield engine


def config(folder: Path, **zoo: object) -> ExperimentConfig:
    """Six teachers in three batches."""
    suite = micro_suite(n_train=20, n_test=4)
    suite.spaced(6).save(folder / "suite")
    settings = replace(ZooConfig(steps=12, batch_size=2, check_interval=12, adapters_per_batch=2), suite=str(folder / "suite"), **zoo)  # type: ignore[arg-type]
    lora = LoRAConfig(rank=2, alpha=4, target_modules=["q_proj", "v_proj"])
    return ExperimentConfig(lora=lora, zoo=settings, checkpoint_folder=str(folder / "local"), output_dir=str(folder / "log"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo built in this process."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "log").mkdir()
    build_zoo(config(folder))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Of every file but the record, which tells times."""
    names = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("metadata.json", "git.diff")]
    return {str(path.relative_to(folder)): hash_file(path) for path in names}


def test_workers_have_the_drivers_threads_and_switches(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    with engine.crew(Job(Squares)) as crew:
        assert crew.ask("surroundings") == {"threads": 1, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "GOMP_SPINCOUNT": "0"}
        assert dict(crew.map("square", [(str(n), (n,)) for n in range(20)])) == {str(n): n * n for n in range(20)}
        assert list(crew.record()["workers"]["differences"].values()) == [[]]  # of bits: the driver's threads and instructions
        with pytest.raises(InputError, match=r"^-4 has no root here; give 0 or more$"):
            crew.ask("square", -4)


def test_a_zoo_whose_worker_is_killed_has_the_bits_of_one_process(
    world: Path, engine: RayEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "Teaching", LoggedTeaching)
    (world / "log" / "kill").touch()
    seen = []
    there = replace(config(world), checkpoint_folder=str(world / "ray"))
    build_zoo(there, lambda done, total, **figures: seen.append((done, total, figures)), engine)
    assert hashes(world / "ray") == hashes(world / "local")
    told = Counter(tuple(line.split()[:2]) for line in lines(world / "log"))
    assert len(told) == 6
    assert sorted(told.values()) == [1, 1, 1, 1, 1, 2]  # every batch ends once; one was begun twice
    assert len({line.split()[2] for line in lines(world / "log")}) == 3  # two workers, and one in the place of the one that died
    assert ": another goes on" not in caplog.text
    assert "another goes on" in caplog.text
    assert [(done, total) for done, total, _ in seen] == [(2, 6), (4, 6), (6, 6)]
    assert seen[-1][2]["lost"] == 1
    record = json.loads((world / "ray" / "metadata.json").read_text())
    assert record["state"] == "COMPLETED"
    assert record["workers"]["lost"] == 1


def test_deltas_whose_worker_is_killed_have_the_bits_of_one_process(
    world: Path, engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk is one adapter, so that there are six."""
    (tmp_path / "kill").touch()
    monkeypatch.setattr("llgbm.memory.SHARE", 1e-9)
    asked = ExperimentConfig(output_dir=str(tmp_path))
    arguments, paths, reports = (asked, load_probes("generic")), find_adapters(world / "local"), []
    for place, where, kind in ((engine, "ray", LoggedMeasuring), (Local(), "local", Measuring)):
        with place.crew(Job(kind.load, arguments)) as crew:
            reports.append(fill_cache(crew, paths, DeltaCache(tmp_path / where)))
    assert reports[0] == reports[1]
    assert reports[0].computed == list(map(str, paths))
    one, other = (DeltaCache(tmp_path / where).manifest for where in ("ray", "local"))
    assert one == other
    assert hashes(tmp_path / "ray").keys() == hashes(tmp_path / "local").keys()
    told = Counter(tuple(line.split()[:2]) for line in lines(tmp_path))
    assert sorted(told.values()) == [1] * 11 + [2]  # six ended once each, one was begun twice


def test_what_workers_refuse_is_one_sentence(world: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(f"zoo: {{suite: {world / 'suite'}}}\nlora: {{target_modules: [no_proj]}}\n")
    command = ["zoo", "build", "--config", str(tmp_path / "config.yaml"), "--zoo", str(tmp_path / "zoo")]
    assert main([*command, "--engine", "ray", "--address", address, "--workers", "1"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("llgbm: target_modules ['no_proj'] match nothing in this base")
    assert said.err.count("\n") == 1
    assert not said.out


def test_the_benchmark_of_two_workers_against_one_compares_equal_work(engine: RayEngine) -> None:
    figures = bench_fanout(ExperimentConfig(lora=LoRAConfig(rank=2)), batches=2, teachers=1, steps=2, repeats=2)
    assert figures["same_bits"]
    assert (figures["teachers"], figures["lost"], len(figures["speed_ups"])) == (2, 0, 2)
    assert min(figures["one_worker_s"], figures["two_workers_s"]) > 0


def test_what_has_no_room_is_refused_unless_nodes_are_to_come(address: str, engine: RayEngine) -> None:
    with RayEngine(address, None, Seat(3)) as wide:
        assert wide.room() == 0
        with pytest.raises(InputError, match=r"no node of the Ray cluster at .* has room for a worker \(3 CPU\); ask for less"):
            wide.crew(Job(Squares)).__enter__()
    assert RayEngine(address, None, Seat(1)).room() == 2


@pytest.mark.parametrize("nowhere", ["127.0.0.1:1", "no.such.host.invalid:6379", "no-port"])
def test_an_address_without_a_cluster_is_refused(nowhere: str) -> None:
    with pytest.raises(InputError, match=f"there is no Ray cluster at {nowhere} .*; start one with 'ray start --head', or leave out"):
        require_answer(nowhere)
