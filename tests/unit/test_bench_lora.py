"""Teachers and forwards the usual way: what is timed against ours is the same work, from the same files to the same numbers."""

from dataclasses import replace

import pytest
import torch
from tolerance import assert_near, depth
from training_world import suited_world

from llgbm.bench import forward, teachers
from llgbm.bench.forward import bench_forward
from llgbm.bench.teachers import bench_teachers
from llgbm.config import ExperimentConfig
from llgbm.lora.factors import LoRAFactors

pytestmark = [pytest.mark.numeric, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    return suited_world(tmp_path_factory.mktemp("world"))


def test_both_ways_train_the_same_adapters_where_gradients_are_clipped(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[LoRAFactors] = []
    monkeypatch.setattr(teachers, "_exact_match", lambda functional, factors, framing, tasks: found.append(factors) or 0.0)
    clipped = replace(config, lora=replace(config.lora, alpha=4.5), zoo=replace(config.zoo, max_grad_norm=1e-8))
    for each in (clipped, replace(clipped, zoo=replace(clipped.zoo, max_grad_norm=None))):
        bench_teachers(each, n_teachers=2, steps=5)
    together, apart, unclipped, _ = found
    for name in together.b:
        torch.testing.assert_close(together.b[name], apart.b[name], rtol=1e-3, atol=1e-5)
        assert not torch.allclose(together.b[name], unclipped.b[name], rtol=1e-2)
        assert torch.equal(together.scaling[name], torch.full((2,), 4.5 / config.lora.rank))


def test_a_forward_is_timed_with_and_without_reading_the_adapters(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    reader = forward.read_readable
    monkeypatch.setattr(forward, "read_readable", lambda paths, shapes: read.append(len(paths)) or reader(paths, shapes))
    found = bench_forward(config, n_adapters=3, sequences=2, repeats=2)
    assert read == [3] * 3
    assert_near(torch.tensor(found["max_difference_to_peft"]), torch.tensor(0.0), length=24, depth=depth(2))
    assert found["speedup_over_peft"] == found["peft_s"] / found["functional_s"]
    assert found["times_the_floor"] == found["in_memory_s"] / found["base_s"]
