"""Stages on a Ray cluster of two nodes, one of whose workers is killed: the bits of one process, and nothing done twice."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_world import build_evaluation_world
from fanout_workers import Squares
from logged_workers import LoggedCells, LoggedMeasuring, LoggedRuns, LoggedTeaching, LoggedTrials, lines, load_logged_worker
from study_world import TASK, small_study
from training_world import build_world

from llgbm.bench.fanout import bench_fanout
from llgbm.cli import main
from llgbm.config import ExperimentConfig, LoRAConfig, ZooConfig
from llgbm.delta import DeltaCache, Measuring, fill_cache
from llgbm.errors import InputError
from llgbm.evaluation import task_eval
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.evaluation.task_eval import evaluate
from llgbm.fanout.crew import Job
from llgbm.fanout.local import Local
from llgbm.fanout.ray import RayEngine, Seat, require_answer
from llgbm.files import hash_file, read_json
from llgbm.lora.peft_io import find_adapters
from llgbm.probes import load_probes
from llgbm.studies import ablation
from llgbm.studies.ablation import run_study
from llgbm.studies.variants import Study as VariedStudy
from llgbm.study import runs, search
from llgbm.study.runs import run_runs
from llgbm.study.search import open_journal, run_search
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
    begun = [line.split()[1:] for line in lines(world / "log") if line.startswith("begin")]
    (twice,) = (name for (kind, name), count in told.items() if count == 2)
    died, other = (pid for name, pid in begun if name == twice)
    assert died != other  # one in its place, or the worker that was left
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


def begun_and_ended(folder: Path) -> list[int]:
    """How often each line was written: each piece ends once, and those are begun twice whose worker died."""
    return sorted(Counter(tuple(line.split()[:2]) for line in lines(folder)).values())


def test_an_evaluation_whose_worker_is_killed_is_that_of_one_process(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_evaluation_world(tmp_path / "world")
    methods = ("base", "teacher", "nearest", "multitask_blind")
    config = EvaluationConfig(methods=methods, splits=("seen", "unseen_wording", "unseen_combination"))
    monkeypatch.chdir(tmp_path)
    expected = evaluate(None, "world/zoo", config, "local/cache").to_json()
    monkeypatch.setattr(task_eval, "load_worker", load_logged_worker)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "kill").touch()
    seen = []
    found = evaluate(None, "world/zoo", config, "ray/cache", lambda *counts, **figures: seen.append((*counts, figures)), engine).to_json()
    assert json.dumps(found) == json.dumps(expected)
    assert hashes(tmp_path / "ray" / "cache") == hashes(tmp_path / "local" / "cache")
    assert begun_and_ended(tmp_path / "ray") == [1] * (2 * 8 - 1) + [2]
    told = {line.split()[1] for line in lines(tmp_path / "ray")}
    assert told >= {"multitask_blind:seen+unseen_wording+unseen_combination", "base:seen+unseen_wording", "nearest:unseen_wording"}
    assert seen[-1][:2] == (40, 40)
    assert seen[-1][2]["lost"] == 1


def test_cells_whose_worker_is_killed_come_to_the_files_of_one_process(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative to the folder in which the command is given."""
    build_world(tmp_path / "world")
    training = {"total_steps": 4, "save_interval": 1, "validation_fraction": 0.2}
    values = {"lora": {"rank": 2, "alpha": 4}, "training": training}
    study = VariedStudy("tiny", "smoke", {"both": {}, "product": {"objective": {"kl": 0}}}, seeds=[0], set=values, splits=["seen"])
    given = {"model.name": str(tmp_path / "world" / "base"), "checkpoint_folder": "../world/zoo"}
    found = {}
    for where, place in (("local", None), ("ray", engine)):
        (tmp_path / where / "studies").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / where)
        if place:
            monkeypatch.setattr(ablation, "CellWorker", LoggedCells)
            Path("studies/kill").touch()
        found[where] = run_study(study, "studies", given, engine=place)
    assert found["ray"] == found["local"]
    kept = [path for path in Path("studies").rglob("*") if path.suffix == ".safetensors" or path.name == "config.yaml"]
    assert len([path for path in kept if path.parent.name == "generator"]) == 2
    assert {path: hash_file(path) for path in kept} == {path: hash_file(tmp_path / "local" / path) for path in kept}
    assert begun_and_ended(tmp_path / "ray" / "studies") == [1, 1, 1, 2]
    for path in Path("studies").rglob("eval_main.json"):
        one, other = (read_json(place / path) for place in (tmp_path / "local", tmp_path / "ray"))
        assert one["made"].pop("run") != other["made"].pop("run")  # an absolute path
        assert one == other
    earlier = [read_json(path).get("earlier", []) for path in Path("studies").rglob("metadata.json")]
    assert sorted(map(len, earlier)) == [0, 1]  # the killed run went on from its checkpoint
    assert not list(Path("studies").rglob(".*"))


def test_runs_of_a_study_whose_worker_is_killed_come_to_the_files_of_one_process(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, together = small_study(tmp_path / "local" / "study"), small_study(tmp_path / "ray" / "study")
    expected = run_runs(alone).results
    monkeypatch.setattr(runs, "RunWorker", LoggedRuns)
    (tmp_path / "ray" / "kill").touch()
    seen = []
    found = run_runs(together, lambda done, total, **figures: seen.append((done, total, figures)), engine).results
    assert [replace(one, seconds=0.0) for one in found] == [replace(one, seconds=0.0) for one in expected]
    kept = [path.relative_to(alone.folder) for path in alone.folder.rglob("*.safetensors")]
    assert len(kept) == 2 * 3 + 2  # states and model of each
    assert {path: hash_file(together.folder / path) for path in kept} == {path: hash_file(alone.folder / path) for path in kept}
    assert begun_and_ended(tmp_path / "ray") == [1, 1, 1, 2]
    assert [(done, total) for done, total, _ in seen] == [(0, 64), (32, 64), (64, 64)]
    assert seen[-1][2]["lost"] == 1
    assert not list(together.folder.rglob(".*"))


def test_a_search_whose_worker_is_killed_makes_the_trials_of_one_process(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are drawn at random: further ones would depend on which have ended."""
    pytest.importorskip("optuna")
    asked = {"methods": ["lora"], "search__trials": 3, "search__train_examples": 16, "search__startup_trials": 3}
    alone, together = small_study(tmp_path / "local" / "study", **asked), small_study(tmp_path / "ray" / "study", **asked)
    expected = run_search(alone)
    monkeypatch.setattr(search, "TrialWorker", LoggedTrials)
    (tmp_path / "ray" / "kill").touch()
    assert run_search(together, engine=engine) == expected
    one, other = (open_journal(study, TASK, "lora").trials for study in (alone, together))
    assert [(t.params, t.value, t.intermediate_values) for t in other] == [(t.params, t.value, t.intermediate_values) for t in one]
    assert begun_and_ended(tmp_path / "ray") == [1, 1, 1, 1, 1, 2]


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
