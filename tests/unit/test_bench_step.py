"""The step benchmark compares like with like: three ways, one loss, one gradient."""

import pytest
import torch
from tolerance import depth, relative
from training_world import suited_world

from llgbm.bench.step import IMPLEMENTATIONS, RIVALS, Step, bench_step, compare_steps, encode_step, floor, memory_growth, ours, prepare_step
from llgbm.config import ExperimentConfig
from llgbm.zoo.base import load_base
from llgbm.zoo.suites import load_suite


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    return suited_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def strong_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny base needs larger factors than the real one for outputs to move by more than rounding."""
    monkeypatch.setattr("llgbm.bench.step.FACTOR_STD", 1.0)


def _step(config: ExperimentConfig, adapters: int, examples: int) -> Step:
    base = load_base(config.model.name)
    return prepare_step(base, config, encode_step(base, load_suite(config.zoo.suite), adapters, examples), adapters)


@pytest.mark.numeric
@pytest.mark.parametrize(("adapters", "examples"), [(3, 2), (5, 1)])
def test_every_way_takes_the_same_step(config, adapters, examples):
    found = compare_steps(_step(config, adapters, examples), repeats=1)
    assert found["loss_difference"] < relative(length=128, depth=depth(2))
    assert found["gradient_difference"] < relative(length=128, depth=2 * depth(2))  # there and back
    assert (found["adapters"], found["examples_per_adapter"]) == (adapters, examples)
    assert found["host_syncs_per_step"] == 0
    assert {f"{way}_{unit}" for way in IMPLEMENTATIONS for unit in ("s", "peak_mb")} <= found.keys()
    assert all(found[f"speedup_over_{way}"] == pytest.approx(found[f"{way}_s"] / found["ours_s"]) for way in RIVALS)


def test_a_way_that_does_other_work_is_refused(config, monkeypatch):
    for wrong in (lambda step: 1.01 * ours(step), lambda step: ours(step) + 0 * floor(step) + torch.nan):
        monkeypatch.setitem(IMPLEMENTATIONS, "loop", wrong)
        with pytest.raises(RuntimeError, match="loop takes another step than ours: its loss differs by"):
            compare_steps(_step(config, 2, 1), repeats=1)


def test_the_floor_runs_backward_through_every_layer_of_an_untouched_base(config):
    step = _step(config, 2, 2)
    model = step.base.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    handle = model.get_submodule("model.layers.0").register_full_backward_hook(lambda *_: seen.append(True))
    floor(step)
    handle.remove()
    assert seen
    compare_steps(step, repeats=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_memory_grows_with_adapters_by_a_few_times_their_size(config):
    step = _step(config, 2, 4)
    growth = memory_growth(step.base, config, step.batch)
    assert growth["adapter_bytes"] == 4 * sum(2 * (a + b) for a, b in step.generated.shapes.values())
    assert growth["peak_bytes_per_adapter"] == growth["peak_in_adapters"] * growth["adapter_bytes"]
    assert growth["peak_in_adapters"] < 6


@pytest.mark.parametrize(("examples", "adapters"), [(2, [2, 4]), (1, [2])])
def test_records_hold_ratios_of_the_configured_step(config, monkeypatch, examples, adapters):
    monkeypatch.setattr(config.training, "tasks_per_step", 2)
    monkeypatch.setattr(config.training, "examples_per_task", examples)
    record = bench_step(config, repeats=1)
    assert [figures["adapters"] for figures in record["shapes"]] == adapters
    assert [(row["adapters"], row["way"]) for row in record["rows"]] == [
        (k, way.replace("_", " ")) for k in adapters for way in IMPLEMENTATIONS
    ]
    assert record["times_the_floor"] == pytest.approx(record["ours_s"] / record["floor_s"])
    assert record["parameters"] == sum(p.numel() for p in load_base(config.model.name).model.parameters())
