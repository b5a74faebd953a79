"""The step benchmark compares like with like: three ways, one loss, one gradient."""

import pytest
import torch
from training_world import build_world

from llgbm.bench.generate import bench_generate
from llgbm.bench.step import WAYS, bench_step, compare_steps, floor, prepare_step
from llgbm.zoo.base import load_base
from llgbm.zoo.suite import load_suite


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    config = build_world(folder)
    config.zoo.suite, config.zoo.steps, config.zoo.check_interval = str(folder / "suite"), 2, 1
    return config


@pytest.mark.parametrize(("adapters", "examples"), [(3, 2), (5, 1)])
def test_every_way_takes_the_same_step(config, adapters, examples, monkeypatch):
    monkeypatch.setattr("llgbm.bench.step.FACTOR_STD", 1.0)
    step = prepare_step(load_base(config.model.name), load_suite(config.zoo.suite), config, adapters, examples)
    found = compare_steps(step, repeats=1)
    assert found["loss_difference"] < 1e-5
    assert found["gradient_difference"] < 1e-4
    assert (found["adapters"], found["examples_per_adapter"]) == (adapters, examples)
    assert {f"{way}_s" for way in WAYS} <= found.keys()


def test_the_floor_runs_backward_through_every_layer_of_an_untouched_base(config):
    base = load_base(config.model.name)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    step = prepare_step(base, load_suite(config.zoo.suite), config, 2, 2)
    seen = []
    handle = base.model.model.layers[0].register_full_backward_hook(lambda *_: seen.append(True))
    floor(step)
    handle.remove()
    assert seen
    compare_steps(step, repeats=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.model.state_dict().items())


def test_records_hold_ratios_of_what_was_measured(config, monkeypatch):
    monkeypatch.setattr("llgbm.bench.step.SHAPES_OF_STEPS", ((2, 2), (3, 1)))
    record = bench_step(config, repeats=1)
    assert [row["adapters"] for row in record["rows"]] == [2, 3]
    assert record["times_the_floor"] == pytest.approx(record["ours_s"] / record["floor_s"])
    monkeypatch.setattr("llgbm.bench.generate.TOGETHER", 3)
    figures = bench_generate(config, repeats=1)
    assert figures["share_of_training"] == pytest.approx(figures["generate_s"] / figures["train_teacher_s"])
