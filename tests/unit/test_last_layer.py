"""Skipping tokens nobody looks at changes no kept state, whatever the architecture; where it would, it is not done."""

from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, padded_tokens, peft_adapter, tiny_model
from torch import nn

from llgbm.delta import DeltaEngine
from llgbm.delta.last_layer import LastLayerAt, _feed_forward
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter, target_shapes
from llgbm.probes import ProbeSet
from llgbm.zoo.base import Base, load_base


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_kept_tokens_are_unchanged(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    shapes = target_shapes(model, "all-linear")
    for seed in (0, 1):
        peft_adapter(model, tmp_path / str(seed), seed)
    factors = LoRAFactors.stack([read_adapter(tmp_path / str(seed), shapes) for seed in (0, 1)])
    functional = FunctionalLoRA(model, shapes)
    ids, mask, _ = padded_tokens(3, 9, "right")
    last = (mask.cumsum(1) == mask.sum(1, keepdim=True)) & mask.bool()
    both, shortcut = (ids.repeat(2, 1), mask.repeat(2, 1)), LastLayerAt(functional, last)
    assert shortcut.block is not None
    plain = functional(factors, *both, hidden_layers=(-1,)).hidden[-1]
    with shortcut:
        short = functional(factors, *both, hidden_layers=(-1,)).hidden[-1]
    torch.testing.assert_close(short[last.repeat(2, 1)], plain[last.repeat(2, 1)], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(short, plain)  # something was skipped
    assert torch.equal(functional(factors, *both, hidden_layers=(-1,)).hidden[-1], plain)  # and no longer is


class Mixing(nn.Module):
    """A feed-forward block that looks at earlier tokens, as RWKV's does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.block(hidden.cumsum(1))


def test_a_block_that_mixes_tokens_is_left_alone() -> None:
    base = load_base("micro")
    base.model.model.layers[-1].mlp = Mixing(base.model.model.layers[-1].mlp)
    engine = DeltaEngine(Base(base.model, base.tokenizer, "mixing"), ProbeSet("two", ("abc", "a longer one")))
    out = base.model(**base.tokenizer("abc", return_tensors="pt"), output_hidden_states=True)
    torch.testing.assert_close(engine.base_states[0, 0], out.hidden_states[-1][0, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [nn.ModuleList(), nn.LayerNorm(4), None])
def test_blocks_of_other_kinds_are_left_alone(block: nn.Module | None) -> None:
    functional = FunctionalLoRA(tiny_model(), [])
    functional.model.model.layers[-1].mlp = block
    assert _feed_forward(functional) is None
    with LastLayerAt(functional, torch.ones(1, 1, dtype=torch.bool)):
        pass
