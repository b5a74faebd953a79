"""States of probes: at real tokens only, whatever the padding; the base's cosine to itself is one."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_model
from tolerance import assert_near, depth
from torch.nn import functional as F
from transformers import TrainerControl, TrainerState, TrainingArguments

from llgbm.study.states import Probes, StatesRecorder

SEQUENCES = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [3, 4], [20], *([[30 + i, 31 + i] for i in range(16)])]
WIDTH, DEPTH = 32, depth(2)


def _alone(model: torch.nn.Module, ids: list[int]) -> list[torch.Tensor]:
    """The states (L+1) x (T, D) of one text without padding."""
    with torch.no_grad():
        return [state[0] for state in model(torch.tensor([ids]), output_hidden_states=True).hidden_states]


def test_states_are_those_of_each_text_alone() -> None:
    base = tiny_model(seed=0)
    moved = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    probes = Probes(SEQUENCES, 0)
    probes.remember(base)
    found = probes.measure(moved)
    assert found["pooled"].shape == (3, len(SEQUENCES), WIDTH)
    assert found["cosine"].shape == (3, len(SEQUENCES))
    for p, ids in enumerate(SEQUENCES):
        before, after = _alone(base, ids), _alone(moved, ids)
        for layer in range(3):
            scale = after[layer].abs().max()
            assert_near(found["pooled"][layer, p], after[layer].mean(0), length=WIDTH, depth=DEPTH, scale=scale)
            cosine = F.cosine_similarity(before[layer], after[layer], dim=-1).mean()
            assert_near(found["cosine"][layer, p], cosine, length=WIDTH, depth=4 * DEPTH)
    assert found["cosine"].min() < 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_has_cosine_one_to_itself(dtype: torch.dtype) -> None:
    base = tiny_model(seed=1).to(dtype)
    probes = Probes(SEQUENCES, 0)
    probes.remember(base)
    assert_near(probes.measure(base)["cosine"], torch.ones(3, len(SEQUENCES)), length=WIDTH, depth=2)


def test_an_adapter_that_is_zero_is_the_base(tmp_path: Path) -> None:
    base = tiny_model(seed=2)
    probes = Probes(SEQUENCES, 0)
    probes.remember(base)
    expected = probes.measure(base)
    adapted = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.train()
    found = probes.measure(adapted)
    assert torch.equal(found["pooled"], expected["pooled"])
    assert adapted.training


def test_the_recorder_writes_the_start_every_so_many_steps_and_the_end(tmp_path: Path) -> None:
    model, probes = tiny_model(seed=3), Probes(SEQUENCES, 0)
    recorder = StatesRecorder(probes, 4, lambda step: tmp_path / f"{step}.safetensors")
    arguments, state, control = TrainingArguments(str(tmp_path / "scratch"), use_cpu=True), TrainerState(max_steps=10), TrainerControl()
    recorder.on_train_begin(arguments, state, control, model=model)
    for state.global_step in range(1, 11):
        recorder.on_step_end(arguments, state, control, model=model)
    assert sorted(int(path.stem) for path in tmp_path.glob("*.safetensors")) == [0, 4, 8, 10]
    content = load_file(tmp_path / "8.safetensors")
    assert {value.dtype for value in content.values()} == {torch.float32}
    with safe_open(tmp_path / "8.safetensors", "pt") as file:
        assert file.metadata() == {"probes": probes.hash}
