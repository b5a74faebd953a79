"""Float32 optimizer state under weights of less precision."""

import copy

import torch
from tiny import padded_tokens, tiny_model

from llgbm.study.optimizer import MasterAdamW

LEARNING_RATE, DECAY = 1e-3, 0.1


def _train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    ids, mask, _ = padded_tokens(4, 8, "right")
    for _ in range(steps):
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        optimizer.step()
        model.zero_grad()


def test_float32_weights_are_moved_as_by_adamw() -> None:
    ours, theirs = (tiny_model(seed=1).requires_grad_(True) for _ in range(2))
    decayed = [p for name, p in theirs.named_parameters() if "norm" not in name and "bias" not in name]
    others = [p for name, p in theirs.named_parameters() if "norm" in name or "bias" in name]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    _train(ours, MasterAdamW(ours, LEARNING_RATE, DECAY), 3)
    _train(theirs, torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True), 3)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_small_steps_add_up_in_bfloat16() -> None:
    """Each step is far below the spacing of bfloat16 at 1; plain AdamW never moves such a weight."""
    moved = []
    for make in (
        lambda layer: MasterAdamW(layer, 1e-4, 0.0),
        lambda layer: torch.optim.AdamW(layer.parameters(), lr=1e-4, weight_decay=0.0),
    ):
        layer = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        torch.nn.init.ones_(layer.weight)
        optimizer = make(layer)
        for _ in range(100):
            layer.weight.grad = torch.ones_like(layer.weight)
            optimizer.step()
        moved.append(1 - layer.weight.float().mean().item())
    assert 0.008 <= moved[0] <= 0.012
    assert moved[1] == 0


def test_the_weights_are_their_copies_rounded_and_the_state_is_float32() -> None:
    model = tiny_model(seed=2).to(torch.bfloat16).requires_grad_(True)
    before = copy.deepcopy(model)
    optimizer = MasterAdamW(model, LEARNING_RATE, DECAY)
    _train(model, optimizer, 2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, optimizer.masters[name].to(torch.bfloat16)), name
    tensors = [value for state in optimizer.state.values() for key, value in state.items() if key != "step"]
    assert tensors
    assert {value.dtype for value in tensors} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_frozen_parameters_have_no_state() -> None:
    model = tiny_model(seed=3).requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    optimizer = MasterAdamW(model, LEARNING_RATE, DECAY)
    assert "model.embed_tokens.weight" not in optimizer.masters
