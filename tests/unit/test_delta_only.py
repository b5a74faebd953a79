"""Behavior alone: b1 is the one training loop under a check, b2 learns fingerprints, resumes to the bit, and says what does not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tolerance import assert_near, depth
from training_world import build_world, changed

from llgbm.delta import DeltaCache, compute_adapter_delta, compute_deltas, make_engine
from llgbm.errors import InputError
from llgbm.lora.peft_io import adapter_hash, read_adapter, write_adapter
from llgbm.models.delta_predictor import DeltaPredictor
from llgbm.probes import load_probes
from llgbm.training.behavior import train_generator
from llgbm.training.checkpoints import is_origin
from llgbm.training.delta_only import train_delta_only
from llgbm.training.fingerprint import FingerprintProblem, teacher_deltas, train_predictor
from llgbm.training.loop import DivergedError, TrainingResult
from llgbm.workspace import settle
from llgbm.zoo.base import load_base
from llgbm.zoo.folder import TeacherZoo

BEHAVIOR = {"objective__product": 0.0, "objective__kl": 0.0, "objective__delta": 1.0, "objective__norm": 0.01}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return changed(build_world(folder), delta_cache_dir=str(folder / "deltas"))


@pytest.fixture
def config(world, tmp_path):
    return changed(world, output_dir=str(tmp_path))


def metrics(result: TrainingResult) -> list[dict]:
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def weights(result: TrainingResult, folder: str = "") -> dict[str, torch.Tensor]:
    return load_file(result.folder / (folder or f"checkpoints/step_{result.steps}") / "model.safetensors")


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


class Killed(Exception):
    pass


def stop_after(steps: int):
    def progress(done, total, **figures):
        if done == steps:
            raise Killed

    return progress


def test_it_learns_the_fingerprints_of_the_seen_tasks(config):
    steps = {f"training__{name}": 100 for name in ("total_steps", "eval_interval", "save_interval")}
    result = train_predictor(changed(config, **steps))
    predictor, zoo = DeltaPredictor.from_pretrained(result.network), TeacherZoo.load(config.checkpoint_folder)
    assert metrics(result)[-1]["loss"] < 0.1 < metrics(result)[0]["loss"]
    base, probes = load_base(config.model.name), load_probes("generic")
    for teacher in [t for t in zoo.teachers if t.task in predictor.spec.trained_on]:
        actual = torch.from_numpy(compute_adapter_delta(base, zoo.folder / teacher.path, probes))
        predicted = predictor.predict(description=zoo.suite[teacher.task].description)[0]
        assert torch.cosine_similarity(predicted, actual, dim=0) > 0.9


def test_run_folder_says_what_it_was_made_of(config):
    result = train_predictor(config)
    metadata = json.loads((result.folder / "metadata.json").read_text())
    assert metadata["state"] == "COMPLETED"
    assert set(metadata["inputs"]) == {"base", "zoo", "encoder", "deltas"}
    assert (result.folder / "config.yaml").is_file()
    spec = DeltaPredictor.from_pretrained(result.folder).spec
    assert not set(spec.trained_on) & set(spec.validated_on)
    assert set(result.validation) == {"cosine", "relative_error", "cosine_of_mean"}
    assert json.loads((result.folder / "training.json").read_text())["cosine"] == result.validation["cosine"]


def test_same_seed_same_bits_and_another_seed_other_bits(config):
    runs = [weights(train_predictor(changed(config, experiment_name=name, seed=seed))) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_interrupted_and_resumed_equals_uninterrupted(config, stop):
    whole = train_predictor(changed(config, experiment_name="whole"))
    with pytest.raises(Killed):
        train_predictor(config, progress=stop_after(stop))
    assert json.loads((Path(config.output_dir) / "run" / "metadata.json").read_text())["state"] == "FAILED"
    resumed = train_predictor(config, begin="go_on")
    assert same(weights(whole), weights(resumed))
    assert same(weights(whole, "predictor"), weights(resumed, "predictor"))
    assert metrics(whole) == metrics(resumed)
    assert (whole.best_step, whole.validation) == (resumed.best_step, resumed.validation)


def test_resuming_a_finished_run_changes_nothing(config):
    first = train_predictor(config)
    before = (first.folder / "metadata.json").read_bytes(), metrics(first)
    again = train_predictor(config, begin="go_on")
    assert (again.steps, again.best_step, again.validation) == (first.steps, first.best_step, first.validation)
    assert before == ((first.folder / "metadata.json").read_bytes(), metrics(first))


def test_the_step_of_highest_validation_cosine_is_kept(config):
    result = train_predictor(changed(config, training__eval_interval=1, training__learning_rate=3e-2))
    cosines = [row["validation/cosine"] for row in metrics(result)]
    assert result.best_step == cosines.index(max(cosines)) + 1
    assert same(weights(result, "predictor"), weights(result, f"checkpoints/step_{result.best_step}"))
    better, worse = {"cosine": 0.5}, {"cosine": 0.4}
    assert FingerprintProblem.rank(better) > FingerprintProblem.rank(worse)


def test_without_validation_the_last_step_is_kept(config):
    result = train_predictor(changed(config, training__validation_fraction=0.0))
    assert (result.best_step, result.validation) == (result.steps, {})


@pytest.mark.numeric
def test_deltas_are_those_of_each_adapter_alone_and_only_missing_ones_are_computed(config, tmp_path):
    zoo, base, cache = TeacherZoo.load(config.checkpoint_folder), load_base(config.model.name), tmp_path / "cache"
    engine = make_engine(config, base=base)
    found = teacher_deltas(engine, zoo, zoo.teachers[1:3], cache)
    for row, teacher in zip(found, zoo.teachers[1:3], strict=True):
        alone = compute_adapter_delta(base, zoo.folder / teacher.path, load_probes("generic"))
        assert_near(row, alone, scale=engine.base_states, length=24, depth=depth(2))
    files = {path: path.stat().st_mtime_ns for path in cache.glob("*.safetensors")}
    assert len(files) == 1 + len(zoo.teachers)  # the base's states too
    assert torch.equal(teacher_deltas(engine, zoo, zoo.teachers[1:3], cache), found)
    assert files == {path: path.stat().st_mtime_ns for path in cache.glob("*.safetensors")}


def test_deltas_that_another_process_stored_are_found(config, tmp_path, monkeypatch):
    zoo, engine, cache = TeacherZoo.load(config.checkpoint_folder), make_engine(config), tmp_path / "cache"
    alone = teacher_deltas(engine, zoo, zoo.teachers[1:3], tmp_path / "own")

    def elsewhere(engine, paths, _):
        return compute_deltas(engine, paths, DeltaCache(cache))  # what was given learns nothing of it

    monkeypatch.setattr("llgbm.training.fingerprint.compute_deltas", elsewhere)
    assert torch.equal(teacher_deltas(engine, zoo, zoo.teachers[1:3], cache), alone)


def test_teachers_without_a_delta_are_named(config, tmp_path):
    folder = tmp_path / "zoo"
    shutil.copytree(config.checkpoint_folder, folder)
    zoo, engine = TeacherZoo.load(folder), make_engine(config)
    huge, linked, kept = (folder / teacher.path for teacher in zoo.teachers[:3])
    write_adapter(huge, read_adapter(huge).map(lambda t: t * 1e30), base_name="tiny")
    shutil.rmtree(linked)
    with pytest.raises(InputError, match=r"teacher .* of zoo .* is not as it was trained \(.*no such folder"):
        teacher_deltas(engine, zoo, zoo.teachers[1:2], tmp_path / "cache")
    linked.symlink_to(kept)
    for row, path in zip(zoo.manifest["teachers"], (huge, linked), strict=False):
        row["hash"] = adapter_hash(path)
    zoo = TeacherZoo(folder, zoo.manifest)
    with pytest.raises(InputError, match=f"teacher {huge} has no delta to learn: .* NaN or infinite"):
        teacher_deltas(engine, zoo, zoo.teachers[:1], tmp_path / "cache")
    with pytest.raises(InputError, match=r"holds no delta of teacher .*; build the zoo again"):  # one folder under two names is one adapter
        teacher_deltas(engine, zoo, zoo.teachers[1:3], tmp_path / "cache")


def test_what_does_not_fit_is_refused(config, tmp_path):
    DeltaCache(tmp_path / "other").bind({"base": "x"})
    with pytest.raises(InputError, match="holds deltas of another configuration"):
        train_predictor(changed(config, delta_cache_dir=str(tmp_path / "other")))
    train_predictor(config)
    with pytest.raises(InputError, match="was trained with another config"):
        train_predictor(changed(config, training__learning_rate=1e-4), begin="go_on")
    with pytest.raises(InputError, match="was trained with another config"):
        train_predictor(changed(config, delta__aggregation="concat", delta_cache_dir=str(tmp_path / "concat")), begin="go_on")
    with pytest.raises(DivergedError, match=r"training stopped at step .*: delta is .*; lower training.learning_rate"):
        train_predictor(changed(config, experiment_name="diverged", training__learning_rate=1e30, training__max_grad_norm=1e30))


def test_one_folder_holds_one_kind_of_run(config):
    finished, zoo = train_predictor(config), TeacherZoo.load(config.checkpoint_folder)
    hashes = {"config_hash": settle(config, zoo).get_hash(), "zoo_hash": zoo.content_hash}
    assert not is_origin(finished.folder / "checkpoints", hashes)
    with pytest.raises(InputError, match="holds a predictor; train the generator under another experiment_name"):
        train_generator(config, begin="overwrite")
    other = changed(config, experiment_name="other", **BEHAVIOR)
    folder = train_generator(other).folder
    assert is_origin(folder / "checkpoints", {**hashes, "config_hash": settle(other, zoo).get_hash()})
    with pytest.raises(InputError, match="holds a generator; train the predictor under another experiment_name"):
        train_predictor(other, begin="overwrite")


def test_b1_is_the_generators_training_loop(config):
    config = changed(config, **BEHAVIOR)
    plain = train_generator(changed(config, experiment_name="plain"))
    alone = train_delta_only(config, "b1")
    assert same(weights(plain), weights(alone))


def test_b1_refuses_terms_that_see_weights_and_objectives_without_behavior(config):
    for term in ("product", "weight"):
        with pytest.raises(InputError, match=f"learns from behavior alone, but objective.{term} is 0.5; set it to 0"):
            train_delta_only(changed(config, **{**BEHAVIOR, f"objective__{term}": 0.5}), "b1")
    with pytest.raises(InputError, match=r"variant b1 has no behavior to learn from: .*delta, trajectory, kl, sft, context"):
        train_delta_only(changed(config, **{**BEHAVIOR, "objective__delta": 0.0}), "b1")


def test_unknown_variants_are_refused(config):
    with pytest.raises(InputError, match="unknown variant 'b3'; choose b1 or b2"):
        train_delta_only(config, "b3")
