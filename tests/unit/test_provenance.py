"""A run goes into the store with what it was made from, and with nothing else."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from training_world import build_world, retrain

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.files import read_json, write_json, write_text
from llgbm.provenance import record_run
from llgbm.tracking.lineage import lineage, lineage_faults
from llgbm.tracking.store import ArtifactStore
from llgbm.training.behavior import train_generator
from llgbm.zoo.folder import TeacherZoo


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = build_world(tmp_path)
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
        ("model-run:v1", "zoo-zoo:v1"),
        ("eval-run-on-micro-again:v1", "model-run:v1, zoo-zoo:v1, dataset-micro:v1"),
        ("eval-run-on-micro:v1", "model-run:v1, zoo-zoo:v1, dataset-micro:v1"),
        ("report-run:v1", "eval-run-on-micro-again:v1, eval-run-on-micro:v1"),
    ]
    assert main(command) == 0
    store = ArtifactStore(tmp_path / "store")
    assert len(list(store)) == 6
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
