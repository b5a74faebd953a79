"""Probes in training: rounding is no fingerprint, however many adapters are probed together."""

import pytest

from llgbm.config import DeltaConfig
from llgbm.dataset import encode_texts
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.training.probe_targets import ProbeTargets
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
