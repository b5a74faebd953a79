"""Skipping tokens nobody looks at changes nothing that is looked at, whatever the architecture; where it would, it is not done."""

from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, padded_tokens, peft_adapter, tiny_model
from tolerance import assert_near, depth
from torch import nn

from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.last_layer import chosen_tokens, narrow_last_layer
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter, target_shapes

pytestmark = pytest.mark.numeric


def two_adapters(model: nn.Module, folder: Path) -> LoRAFactors:
    shapes = target_shapes(model, "all-linear")
    for seed in (0, 1):
        peft_adapter(model, folder / str(seed), seed)
    factors = LoRAFactors.stack([read_adapter(folder / str(seed), shapes) for seed in (0, 1)])
    for tensor in factors.tensors():
        tensor.requires_grad_()
    return factors


def some_tokens(mask: torch.Tensor) -> torch.Tensor:
    """The last real token of each row, and of the first row two more."""
    at = (mask.cumsum(1) == mask.sum(1, keepdim=True)) & mask.bool()
    at[0, 2:4] = True
    return at


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_is_looked_at_is_unchanged_and_so_are_gradients(kind: str, device: torch.device, tmp_path: Path) -> None:
    model = tiny_model(kind).to(device)
    factors = two_adapters(model, tmp_path)
    functional = FunctionalLoRA(model, factors.shapes)
    ids, mask = (t.repeat(2, 1).to(device) for t in padded_tokens(3, 9, "right")[:2])
    at = some_tokens(mask)
    outputs, gradients = [], []
    for hidden_at in (None, at):
        out = functional(factors, ids, mask, hidden_layers=(1, -1), hidden_at=hidden_at, logits_at=at)
        assert out.logits is not None
        outputs.append((out.hidden[1], out.hidden[-1], out.logits))
        (out.logits.square().sum() + out.hidden[-1][at].square().sum()).backward()
        gradients.append([tensor.grad for tensor in factors.tensors()])
        for tensor in factors.tensors():
            tensor.grad = None
    (middle, last, logits), (short_middle, short_last, short_logits) = outputs
    assert torch.equal(middle, short_middle)
    assert_near(short_last[at], last[at], length=48, depth=depth(2))
    assert_near(short_logits, logits, length=48, depth=depth(2))
    assert not torch.allclose(short_last, last)  # something was skipped
    largest = max(float(one.abs().max()) for one in gradients[0])
    for one, other in zip(*gradients, strict=True):
        assert_near(other, one, scale=largest, length=48, depth=2 * depth(2))  # there and back
    assert torch.equal(functional(factors, ids, mask, hidden_layers=(-1,)).hidden[-1], last)  # and no longer is


def test_logits_alone_skip_and_a_wanted_last_layer_does_not() -> None:
    functional = FunctionalLoRA(tiny_model(), [])
    block = functional.model.model.layers[-1].mlp
    seen: list[torch.Size] = []
    block.up_proj.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    ids, mask, _ = padded_tokens(3, 9, "left")
    at = some_tokens(mask)
    functional(None, ids, mask, logits_at=at)
    functional(None, ids, mask, hidden_layers=(-1,), logits_at=at)
    functional(None, ids, mask, hidden_layers=(-1,), hidden_at=at, logits_at=mask.bool())
    assert [shape[1] for shape in seen] == [3, 9, 9]


def test_columns_hold_every_wanted_token_once() -> None:
    at = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]).bool()
    places, columns = chosen_tokens(None, at)
    assert places is None
    assert columns is not None
    assert columns.shape == (2, 2)
    assert at.gather(1, columns).sum(1).tolist() == [1, 2]
    assert all(len(set(row)) == 2 for row in columns.tolist())
    assert chosen_tokens(None, torch.ones(2, 5, dtype=torch.bool))[1] is None
    assert chosen_tokens(None, torch.zeros(2, 5, dtype=torch.bool))[1] is None
    assert chosen_tokens(None, None) == (None, None)


def test_places_are_those_of_the_first_mask_whatever_the_second() -> None:
    at = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]).bool()
    other = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    for looked_at, width in ((None, None), (at, 2), (other, 3)):
        places, columns = chosen_tokens(at, looked_at)
        assert places is not None
        assert places.tolist() == [2, 5, 9]
        assert (columns if columns is None else columns.shape[1]) == width


class Mixing(nn.Module):
    """A feed-forward block that looks at earlier tokens, as RWKV's does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.block(hidden.cumsum(1))


def test_blocks_that_mix_tokens_or_are_of_other_kinds_are_left_alone() -> None:
    model = tiny_model()
    layer = model.model.layers[-1]
    plain = layer.mlp
    for block in (Mixing(plain), nn.ModuleList(), nn.LayerNorm(4), None):
        layer.mlp = block
        assert narrow_last_layer(model, len(model.model.layers)) is None
    layer.mlp = plain
    assert narrow_last_layer(model, len(model.model.layers)) == f"model.layers.{len(model.model.layers) - 1}.mlp"
