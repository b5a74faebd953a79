"""Probes in training: they are the engine's, and rounding is no fingerprint, however many adapters are probed together."""

from pathlib import Path

import pytest
import torch
from tolerance import assert_near
from training_world import build_world, changed

from llgbm.config import DeltaConfig
from llgbm.dataset import encode_texts
from llgbm.delta import make_engine
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.training.probe_targets import ProbeTargets
from llgbm.training.setup import prepare
from llgbm.zoo.base import Base, load_base


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("micro")


@pytest.mark.numeric
@pytest.mark.parametrize("count", [1, 2, 16])
def test_adapters_that_change_nothing_have_a_fingerprint_of_exactly_zero(base: Base, count: int) -> None:
    probes = encode_texts(base.tokenizer, ["abc"], 256)  # of products with so few rows the rounding depends on their number
    shapes = target_shapes(base.model, "all-linear")
    targets = ProbeTargets(FunctionalLoRA(base.model, shapes), probes, DeltaConfig(), count)
    zeros = LoRAFactors.initialize(shapes, 2, 4.0, count).map(lambda tensor: tensor.requires_grad_())
    for with_logits in (False, True):
        assert not targets.run(zeros, with_logits)[0].any()


@pytest.mark.parametrize("probes", ["answered:micro", "generic"])
def test_fingerprints_are_those_that_the_engine_measures(tmp_path: Path, probes: str) -> None:
    config = changed(build_world(tmp_path), probe__probe_type=probes, probe__num_probes=3)
    setup = prepare(config, "cpu")
    targets, engine = ProbeTargets.build(setup, config, frozenset({"delta"})), make_engine(config, base=setup.base)
    assert targets is not None
    assert targets.probes.input_ids.tolist() == engine.batch.input_ids.tolist()
    assert targets.fingerprints is not None
    assert isinstance(setup.train.factors, LoRAFactors)
    measured = torch.from_numpy(engine.deltas(setup.train.factors))
    assert_near(targets.fingerprints, measured, scale=engine.base_states, length=24, depth=16)


def test_probes_that_the_base_cannot_read_are_refused(tmp_path: Path) -> None:
    config = changed(build_world(tmp_path), probe__max_length=1 << 20)
    with pytest.raises(InputError, match=r"probe.max_length is 1048576, base .* reads at most 32768 tokens; lower it"):
        ProbeTargets.build(prepare(config, "cpu"), config, frozenset({"delta"}))
