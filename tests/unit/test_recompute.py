"""Recomputing layers saves memory and changes neither outputs nor gradients."""

import pytest
import torch
from tolerance import assert_near, depth
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.recompute import recompute_layers
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes

pytestmark = pytest.mark.numeric
SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=30, **SHAPE)), ["q_proj", "down_proj"]


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2)), ["c_attn", "c_proj"]


def gradients(functional, factors, ids):
    factors = factors.map(lambda t: t.detach().clone().requires_grad_())
    out = functional(factors, ids, hidden_layers=(1, -1), logits_at=torch.ones_like(ids, dtype=torch.bool))
    loss = out.logits.square().mean() + sum(h.sin().mean() for h in out.hidden.values())
    return loss, torch.autograd.grad(loss, factors.tensors())


@pytest.mark.parametrize("build", [qwen2, gpt2])
def test_same_loss_and_gradients(build):
    torch.manual_seed(0)
    model, targets = build()
    shapes = target_shapes(model, targets)
    factors = LoRAFactors.initialize(shapes, 2, 4.0, 3).map(lambda t: t + 0.1 * torch.randn_like(t))
    ids = torch.randint(30, (6, 7))
    plain, recomputed = FunctionalLoRA(model, shapes), FunctionalLoRA(model, shapes)
    recompute_layers(recomputed)
    (loss, expected), (again, found) = gradients(plain, factors, ids), gradients(recomputed, factors, ids)
    assert torch.equal(loss, again)
    assert any(g.any() for g in expected)
    for x, y in zip(expected, found, strict=True):
        assert_near(y, x, scale=torch.cat([g.flatten() for g in expected]), length=64, depth=2 * depth(3))  # there and back
    with torch.no_grad():
        assert torch.equal(plain(factors, ids, hidden_layers=(-1,)).hidden[-1], recomputed(factors, ids, hidden_layers=(-1,)).hidden[-1])


def test_fewer_activations_are_kept():
    torch.manual_seed(0)
    model, targets = qwen2()
    shapes = target_shapes(model, targets)
    factors, ids = LoRAFactors.initialize(shapes, 2, 4.0, 3).map(torch.ones_like), torch.randint(30, (6, 7))

    def kept(functional) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            functional(factors.map(lambda t: t.requires_grad_()), ids, hidden_layers=(-1,))
        return sum(sizes)

    recomputed = FunctionalLoRA(model, shapes)
    recompute_layers(recomputed)
    assert kept(recomputed) < 0.5 * kept(FunctionalLoRA(model, shapes))


def test_a_base_without_such_layers_is_named(monkeypatch):
    model, _ = qwen2()
    functional = FunctionalLoRA(model, [])
    monkeypatch.setattr(functional, "model", torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="gradient_checkpointing is not supported by Linear"):
        recompute_layers(functional)
