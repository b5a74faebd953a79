"""Stages run again come out the same to the bit; another seed, weight, figure or environment is found and named."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_world import build_world, changed

from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.files import read_json, write_json
from llgbm.studies.reproduce import read_records, repeatable, rerun
from llgbm.studies.stages import core_metrics, read_stage
from llgbm.tracking.comparison import DIFFERS, IDENTICAL, INCOMPARABLE, compare, overall
from llgbm.tracking.validation import failed_points
from llgbm.training.behavior import train_generator
from llgbm.training.fingerprint import train_predictor
from llgbm.zoo.build import build_zoo


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    folder = tmp_path_factory.mktemp("world")
    world = changed(build_world(folder, n_tasks=4), zoo__suite=str(folder / "suite"), zoo__steps=2, training__total_steps=3)
    before = torch.are_deterministic_algorithms_enabled()
    build_zoo(replace(world, checkpoint_folder=str(folder / "built")))
    train_generator(world)
    torch.use_deterministic_algorithms(before)
    return world


@pytest.fixture
def run(config: ExperimentConfig, tmp_path: Path) -> Path:
    return shutil.copytree(config.run_folder, tmp_path / "run")


@pytest.fixture
def built(config: ExperimentConfig, tmp_path: Path) -> Path:
    return shutil.copytree(Path(config.checkpoint_folder).parent / "built", tmp_path / "built")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    status = main(["reproduce", *map(str, arguments), "--json", "--quiet"])
    return status, json.loads(capsys.readouterr().out)


def all_right(points: dict) -> None:
    """Seven points before the work and seven after it, none of which fails."""
    assert {when: len(looked_up) for when, looked_up in points.items()} == {"before": 7, "after": 7}
    assert failed_points(points) == []


def flip(path: Path) -> None:
    """Flip the lowest bit of one weight."""
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name].view(torch.int32).view(-1)[0] ^= 1
    save_file(tensors, path)


@pytest.mark.slow
def test_a_generators_training_repeats_and_another_seed_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = call(capsys, run, "--runs", 2, "--record", tmp_path / "here.json")
    assert (status, found["verdict"]) == (0, IDENTICAL), found["runs"][0]["reasons"]
    assert [row["run"] for row in found["runs"]] == ["run 1", "run 2"]
    all_right(found["runs"][1]["points"])
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 42\n", "\nseed: 43\n"))
    status, found = call(capsys, run, "--runs", 1, "--against", tmp_path / "here.json")
    assert (status, found["verdict"]) == (1, DIFFERS)
    recorded, other = found["runs"]
    assert recorded["verdict"] == IDENTICAL
    assert "setting seed: 42 against 43 (by 1.0e+00)" in other["reasons"]
    assert other["first_step"] == 1
    assert any(reason.startswith("artifact generator/model.safetensors") for reason in other["reasons"])


@pytest.mark.slow
def test_teachers_repeat_and_a_flipped_bit_and_a_failure_are_named(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = call(capsys, built, "--runs", 1)
    assert (status, found["verdict"]) == (0, IDENTICAL), found["runs"][0]["reasons"]
    assert len(found["runs"][0]["artifacts"]) == 4
    all_right(found["runs"][0]["points"])
    adapter = next(iter(sorted(built.rglob("adapter_model.safetensors"))))
    flip(adapter)
    assert main(["reproduce", str(built), "--runs", "1", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "differs" in out
    assert f"run 1: artifact {adapter.relative_to(built)}: " in out
    metadata = read_json(built / "metadata.json")
    metadata["config"]["zoo.suite"] = "nowhere"
    write_json(built / "metadata.json", metadata)
    with pytest.raises(RuntimeError, match=r"run 1 failed: llgbm: .*nowhere"):
        list(rerun(read_stage(built), 1))


@pytest.mark.slow
def test_deltas_repeat_and_a_changed_weight_and_bit_are_named(config: ExperimentConfig, tmp_path: Path, capsys) -> None:
    zoo, cache = shutil.copytree(config.checkpoint_folder, tmp_path / "zoo"), tmp_path / "deltas"
    assert main(["compute-deltas", "--zoo", str(zoo), "--deltas", str(cache), "--layers", "0,-1", "--quiet", "--json"]) == 0
    capsys.readouterr()
    status, found = call(capsys, cache, "--runs", 1)
    assert (status, found["verdict"]) == (0, IDENTICAL), found["runs"][0]["reasons"]
    assert len(found["runs"][0]["artifacts"]) == 5  # four teachers and the base itself
    adapter = next(iter(sorted(zoo.rglob("adapter_model.safetensors"))))
    flip(adapter)
    status, found = call(capsys, cache, "--runs", 1)
    assert (status, found["verdict"]) == (1, DIFFERS)
    name = adapter.parent.relative_to(zoo).as_posix()
    assert found["runs"][0]["reasons"][0].startswith(f"setting content {name}: ")
    flip(adapter)
    delta = next(path for path in sorted(cache.glob("*.safetensors")) if path.name != "base.safetensors")
    flip(delta)
    status, found = call(capsys, cache, "--runs", 1)
    assert [reason.split(": ")[0].split(" ")[0] for reason in found["runs"][0]["reasons"]] == ["artifact"]


@pytest.mark.slow
def test_an_evaluation_repeats_and_another_score_and_weight_are_named(run: Path, config: ExperimentConfig, tmp_path: Path, capsys) -> None:
    asked = ["--methods", "base", "generated", "teacher", "few_shot", "--max_examples", "3", "--demonstrations", "1", "--seed", "5"]
    places = ["--run", str(run), "--zoo", config.checkpoint_folder, "--scores", str(tmp_path / "scores")]
    assert main(["evaluate", *places, *asked, "--quiet", "--json"]) == 0
    capsys.readouterr()
    status, found = call(capsys, run / "eval_main.json", "--runs", 1)
    assert (status, found["verdict"]) == (0, IDENTICAL), found["runs"][0]["reasons"]
    metrics = found["runs"][0]["metrics"]
    assert any(name.endswith("/generated/nll") for name in metrics)
    assert any(name.endswith("/few_shot/exact") for name in metrics)
    flip(run / "generator" / "model.safetensors")
    status, found = call(capsys, run / "eval_main.json", "--runs", 1)
    assert (status, found["verdict"]) == (1, DIFFERS)
    assert found["runs"][0]["reasons"][0].startswith("setting input generator: ")
    flip(run / "generator" / "model.safetensors")
    document = read_json(run / "eval_main.json")
    document["tasks"][0]["nll"]["generated"] += 1e-9
    write_json(run / "eval_main.json", document)
    status, found = call(capsys, run / "eval_main.json", "--runs", 1)
    row = document["tasks"][0]
    assert [r.split(": ")[0] for r in found["runs"][0]["reasons"]] == [f"metric {row['split']}/{row['task']}/generated/nll"]


@pytest.mark.slow
def test_a_predictors_training_repeats_with_its_deltas_computed_anew(config: ExperimentConfig, tmp_path: Path, capsys) -> None:
    world = changed(config, output_dir=str(tmp_path), delta_cache_dir=str(tmp_path / "deltas"), training__eval_interval=2)
    before = torch.are_deterministic_algorithms_enabled()
    train_predictor(world)
    torch.use_deterministic_algorithms(before)
    shutil.rmtree(tmp_path / "deltas")
    status, found = call(capsys, world.run_folder, "--runs", 1)
    assert (status, found["verdict"]) == (0, IDENTICAL), found["runs"][0]["reasons"]
    assert "predictor/model.safetensors" in found["runs"][0]["artifacts"]
    assert not (tmp_path / "deltas").exists()


def test_core_metrics_are_the_last_losses_and_their_perplexities() -> None:
    curve = [{"step": 1, "loss": 2.0, "loss/sft": 1.0, "validation/nll": 0.5}, {"step": 2, "loss": 1.0, "loss/sft": 0.0}]
    expected = {"train_loss": 1.0, "train_perplexity": 1.0, "eval_loss": 0.5, "eval_perplexity": math.exp(0.5)}
    assert core_metrics(curve) == expected
    assert core_metrics([]) == {}
    assert core_metrics([{"step": 1, "validation/nll": 1e6}])["eval_perplexity"] == math.exp(700)


def test_what_differs_is_named_with_its_place(run: Path, tmp_path: Path) -> None:
    stage = read_stage(run)
    reference = stage.read(run, "recorded")
    assert compare(reference, reference).verdict == IDENTICAL
    other = shutil.copytree(run, tmp_path / "other")
    shutil.copytree(run / "generator", other / "example_adapter")  # a later stage's
    flip(other / "generator" / "model.safetensors")
    found = compare(reference, stage.read(other, "other"))
    assert (found.verdict, found.first_step, len(found.reasons)) == (DIFFERS, None, 1)
    assert found.reasons[0].startswith("artifact generator/model.safetensors: ")
    rows = [{**row} for row in reference.curve]
    rows[1]["loss"] += 1e-7
    parted = compare(reference, replace(reference, curve=tuple(rows)))
    assert (parted.verdict, parted.first_step) == (DIFFERS, 2)
    assert parted.reasons[0].startswith("curves part at step 2: loss: ")
    assert "(by 1.0e-07)" in parted.reasons[0]
    assert compare(reference, replace(reference, curve=reference.curve[:2])).first_step == 3
    faster = tuple({**row, "adapters_per_second": 1.0} for row in reference.curve)
    assert compare(reference, replace(reference, curve=faster)).verdict == IDENTICAL
    gone = compare(reference, replace(reference, artifacts={}))
    assert all(reason.endswith("against absent") for reason in gone.reasons)
    nan = replace(reference, metrics={"x": float("nan")})
    assert compare(nan, nan).verdict == IDENTICAL


@pytest.mark.parametrize("name", ["threads", "cpu_capability", "torch_version"])
def test_another_environment_is_incomparable_and_says_in_what(run: Path, name: str) -> None:
    reference = read_stage(run).read(run, "recorded")
    found = compare(reference, replace(reference, environment={**reference.environment, name: "another"}, metrics={}))
    assert found.verdict == INCOMPARABLE
    assert found.reasons[0] == f"environment {name}: {reference.environment[name]} against another"
    assert any(reason.startswith("metric ") for reason in found.reasons)
    same = compare(reference, reference)
    assert [overall(rows) for rows in ([same], [same, found])] == [IDENTICAL, INCOMPARABLE]


def test_neither_tracker_nor_store_nor_cache_hears_of_a_repetition(run: Path, tmp_path: Path) -> None:
    stage = read_stage(run)
    told = changed(stage.config, training__report_to="tensorboard", tracking__store=str(tmp_path / "store"), delta_cache_dir="kept")
    place = tmp_path / "place"
    replace(stage, config=told).command(place)
    asked = ExperimentConfig.load(place / "config.yaml")
    assert (asked.training.report_to, asked.tracking.store, asked.delta_cache_dir) == ("none", None, str(place / "deltas"))


def test_a_process_that_repeats_itself_is_told_so_from_its_start() -> None:
    told = repeatable(2, "cpu")
    assert (told["PYTHONHASHSEED"], told["OMP_NUM_THREADS"], told["MKL_NUM_THREADS"], told["CUDA_VISIBLE_DEVICES"]) == ("0", "2", "2", "")
    assert told["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_an_accelerator_that_a_run_on_the_cpu_did_not_use_does_not_count(run: Path) -> None:
    metadata = read_json(run / "metadata.json")
    write_json(run / "metadata.json", {**metadata, "environment": {**metadata["environment"], "gpu_name": "another"}})
    stage = read_stage(run)
    on_cpu = replace(stage, config=changed(stage.config, model__device="cpu"))
    assert on_cpu.read(run, "recorded").environment["gpu_name"] is None
    on_gpu = replace(stage, config=changed(stage.config, model__device="cuda"))
    assert on_gpu.read(run, "recorded").environment["gpu_name"] == "another"


@pytest.mark.parametrize("choices", [{"output": "there"}, {"splits": ["seen", "--output=there"]}, {"splits": {"output": "there"}}])
def test_choices_of_a_file_are_no_other_flags(tmp_path: Path, choices: dict) -> None:
    made = {"run": None, "zoo": "zoo", "choices": choices, "inputs": {}}
    file = tmp_path / "eval_main.json"
    write_json(file, {"splits": {}, "tasks": [], "metrics": [], "base": {}, "config_hash": "0", "made": made})
    with pytest.raises(InputError, match=r"choice (splits\.)?(output|splits) is .*there.*, which is no choice of an evaluation"):
        read_stage(file)


def test_what_cannot_be_run_again_is_refused(run: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="neither a zoo nor a finished run of 'llgbm train'"):
        read_stage(tmp_path)
    write_json(tmp_path / "manifest.json", {"adapters": {}, "config": {}})
    write_json(tmp_path / "metadata.json", {"config": {}})
    with pytest.raises(InputError, match=r"not all that it takes to compute deltas again.*: call is missing"):
        read_stage(tmp_path)
    document = {"splits": {}, "tasks": [], "metrics": [], "base": {}, "config_hash": "0"}
    write_json(tmp_path / "eval_main.json", document)
    with pytest.raises(InputError, match="does not say how it was made; evaluate again"):
        read_stage(tmp_path / "eval_main.json")
    metadata = read_json(built / "metadata.json")
    write_json(built / "metadata.json", {**metadata, "config": None})
    with pytest.raises(InputError, match="records no config, so the zoo cannot be built again"):
        read_stage(built)
    write_json(tmp_path / "records.json", {"stage": "zoo", "runs": []})
    with pytest.raises(InputError, match=r"has 0 runs of stage zoo, and .* is of stage generator"):
        read_records(tmp_path / "records.json", read_stage(run))
    for flag in ("--runs", "--threads"):
        assert main(["reproduce", str(run), flag, "0"]) == 2
        assert f"{flag} is 0; give 1 or more" in capsys.readouterr().err
