"""A run goes into the store with what it was made from, and with nothing else."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from training_world import build_world, changed, retrain

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.files import read_json, write_json, write_text
from llgbm.provenance import record_deltas, record_run, record_zoo
from llgbm.tracking.lineage import lineage, lineage_faults
from llgbm.tracking.store import ArtifactStore
from llgbm.training.behavior import train_generator
from llgbm.zoo.folder import TeacherZoo


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = changed(build_world(tmp_path), delta_cache_dir=str(tmp_path / "deltas"))
    train_generator(config)
    run = tmp_path / "outputs" / "run"
    base = {"base": asdict(TeacherZoo.load(tmp_path / "zoo").base)}
    for name in ("main", "again"):
        write_json(run / f"eval_{name}.json", base | {"of": name})
    write_text(run / "report.html", "<p>")
    return run


def test_a_run_comes_with_all_it_was_made_from_and_only_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["artifacts", "record", str(run), "--store", str(tmp_path / "store"), "--json"]
    assert main(command) == 0
    assert [(row["artifact"], row["made_from"]) for row in json.loads(capsys.readouterr().out)] == [
        ("dataset-micro:v1", None),
        ("zoo-zoo:v1", "dataset-micro:v1"),
        ("checkpoint-run:v1", "zoo-zoo:v1"),
        ("checkpoint-run:v2", "zoo-zoo:v1"),
        ("model-run:v1", "zoo-zoo:v1, checkpoint-run:v1"),
        ("eval-run-on-micro-again:v1", "model-run:v1, zoo-zoo:v1, dataset-micro:v1"),
        ("eval-run-on-micro:v1", "model-run:v1, zoo-zoo:v1, dataset-micro:v1"),
        ("report-run:v1", "eval-run-on-micro-again:v1, eval-run-on-micro:v1"),
    ]
    assert main(command) == 0
    store = ArtifactStore(tmp_path / "store")
    assert len(list(store)) == 8
    assert store.faults() == []
    assert lineage_faults(lineage(store)) == []
    for path in run.glob("eval_*.json"):
        path.unlink()
    write_text(run / "report.html", "<p>without figures")
    assert record_run(store, run)[-1].inputs == ("model-run:v1",)


def test_only_what_the_run_was_made_from_is_its_input(run: Path, tmp_path: Path) -> None:
    store, metadata = ArtifactStore(tmp_path / "store"), read_json(run / "metadata.json")

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match):
            record_run(store, run)
        assert not store.folder.exists()

    evaluation = read_json(run / "eval_main.json")
    write_json(run / "eval_main.json", {"base": evaluation["base"] | {"source_hash": "0" * 64}})
    refused("is of a base with hash 00000000, but zoo .* is of one with")
    write_json(run / "eval_main.json", evaluation)
    write_json(run / "metadata.json", metadata | {"state": "RUNNING"})
    refused("the run is RUNNING, and only one that is COMPLETED is recorded")
    write_json(run / "metadata.json", metadata)
    (run / "generator").rename(run / "hidden")
    refused("has none of generator, predictor, soft_prompt")
    (run / "hidden").rename(run / "generator")
    retrain(tmp_path, TeacherZoo.load(tmp_path / "zoo").teachers[0].task)
    refused("was trained on a zoo of hash [0-9a-f]{8}, but zoo .* has [0-9a-f]{8}; give the zoo it was trained on")


def made(store: Path) -> dict[str, tuple[str, ...]]:
    return {artifact.ref: artifact.inputs for artifact in ArtifactStore(store)}


def test_every_stage_keeps_what_it_made_and_from_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, store = changed(build_world(tmp_path), delta_cache_dir=str(tmp_path / "deltas")), tmp_path / "store"
    config = changed(config, training__total_steps=8, training__eval_interval=2, zoo__suite=str(tmp_path / "suite"))
    file, zoo, run = config.save(tmp_path / "config.yaml"), str(tmp_path / "zoo"), tmp_path / "outputs" / "run"
    kept = ["--store", str(store)]
    assert main(["compute-deltas", "--zoo", zoo, "--deltas", str(tmp_path / "deltas"), *kept]) == 0
    assert f"kept in {store}: dataset-micro:v1, zoo-zoo:v1, deltas-zoo:v1" in capsys.readouterr().err
    assert main(["train", "--config", str(file), *kept]) == 0
    assert main(["evaluate", "--run", str(run), "--zoo", zoo, "--methods", "base", "teacher", "generated", "--splits", "seen", *kept]) == 0
    elsewhere = ["--output", str(tmp_path / "eval_alone.json"), "--scores", str(tmp_path / "cache")]
    assert main(["evaluate", "--run", "none", "--zoo", zoo, "--methods", "base", "--splits", "seen", *elsewhere, *kept]) == 0
    assert main(["evaluate", "--run", str(run), "--zoo", zoo, "--methods", "generated", "--splits", "seen", *elsewhere, *kept]) == 0
    assert main(["report", str(run), "--composition", "none", *kept]) == 0
    steps = [int(path.name.removeprefix("step_")) for path in (run / "checkpoints").iterdir()]
    newest = f"checkpoint-run:v{len(steps)}"
    best = ArtifactStore(store).get("checkpoint-run:best").ref
    score = ("model-run:v1", "zoo-zoo:v1", "dataset-micro:v1")
    assert made(store) == {
        "dataset-micro:v1": (),
        "zoo-zoo:v1": ("dataset-micro:v1",),
        "deltas-zoo:v1": ("zoo-zoo:v1",),
        **{f"checkpoint-run:v{number}": ("zoo-zoo:v1",) for number in range(1, len(steps) + 1)},
        "model-run:v1": ("zoo-zoo:v1", best),
        "eval-run-on-micro:v1": score,
        "eval-run-on-micro-alone:v1": score,
        "eval-controls-on-micro-alone:v1": ("zoo-zoo:v1", "dataset-micro:v1"),
        "report-run:v1": ("eval-run-on-micro:v1", "deltas-zoo:v1"),
    }
    assert ArtifactStore(store).get(f"checkpoint-run:checkpoint_step_{max(steps)}").ref == newest
    assert ArtifactStore(store).get("checkpoint-run").ref == newest
    assert ArtifactStore(store).faults() == []
    before = made(store)
    assert main(["compute-deltas", "--zoo", zoo, "--deltas", str(tmp_path / "deltas"), *kept]) == 0
    assert main(["report", str(run), "--composition", "none", *kept]) == 0
    assert made(store) == before  # times in records make no new versions


def test_deltas_of_another_zoo_are_not_kept_as_its_own(tmp_path: Path) -> None:
    build_world(tmp_path)
    zoo, cache, store = tmp_path / "zoo", tmp_path / "deltas", ArtifactStore(tmp_path / "store")
    assert main(["compute-deltas", "--zoo", str(zoo), "--deltas", str(cache)]) == 0
    task = TeacherZoo.load(zoo).teachers[0].task
    retrain(tmp_path, task)
    with pytest.raises(InputError, match=rf"has no delta of .*{task}.*, nor of 0 others of zoo .* as it is now; compute them with"):
        record_deltas(store, cache, zoo)
    assert not store.folder.exists()
    (zoo / "manifest.json").unlink()
    assert [artifact.ref for artifact in record_deltas(store, cache, zoo)] == ["adapters-zoo:v1", "deltas-zoo:v1"]


def test_a_zoo_that_is_built_again_is_the_same_version(tmp_path: Path) -> None:
    build_world(tmp_path)
    store = ArtifactStore(tmp_path / "store")
    for started in ("today", "tomorrow"):
        write_json(tmp_path / "zoo" / "metadata.json", {"started": started})
        assert record_zoo(store, tmp_path / "zoo")[-1].ref == "zoo-zoo:v1"
