"""Between two looks at a loss nothing makes the host wait for the device, for which the host stands in and is counted."""

import dataclasses
from collections import Counter

import pytest
import torch
from tiny import VOCABULARY, padded_tokens, tiny_model
from training_world import build_world, changed

from llgbm.bench.syncs import host_syncs
from llgbm.config import ExperimentConfig, LoRAConfig, ZooConfig
from llgbm.functional_lora import FunctionalLoRA, greedy_decode
from llgbm.losses import OBJECTIVES
from llgbm.training.behavior import ANSWERING, OF_ATTRIBUTES, train_generator
from llgbm.training.soft_prompt import train_soft_prompt
from llgbm.zoo.base import load_base
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.trainer import make_lesson, train_adapters

SELDOM = {f"training__{what}_interval": 100 for what in ("log", "eval", "save")}
ALL_TERMS = {f"objective__{name}": 1.0 for name in OBJECTIVES if name not in {*OF_ATTRIBUTES, *ANSWERING}}
"""Those for which answers are decoded ask after each token who has ended."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> ExperimentConfig:
    return build_world(tmp_path_factory.mktemp("world"))


def waits_of_two_steps_more(config: ExperimentConfig, train=train_generator) -> Counter[str]:
    """What four steps wait for beyond what two do: neither more nor fewer looks, so nothing."""
    counts = []
    for steps in (2, 4):
        longer = changed(config, experiment_name=f"{steps}-steps", training__total_steps=steps, **SELDOM)
        counts.append(host_syncs(lambda chosen=longer: train(chosen), device=()))
    assert counts[0].total() > 0  # the last step is looked at
    return counts[1] - counts[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"training__kl_top_k": 4, **ALL_TERMS},
        {"training__teacher_cache_gb": 1e-6, "training__target_cache_gb": 0.0},
        {"generator__attributes": True, "objective__attributes": 1.0},
    ],
    ids=["product and kl", "every term without answers", "teachers on disk", "attributes"],
)
def test_no_step_of_a_generator_waits(world, tmp_path, settings):
    assert not waits_of_two_steps_more(changed(world, output_dir=str(tmp_path), **settings))


def test_no_step_of_a_soft_prompt_waits(world, tmp_path):
    assert not waits_of_two_steps_more(changed(world, output_dir=str(tmp_path)), train_soft_prompt)


def test_no_step_of_teachers_waits(world):
    base, suite = load_base(world.model.name), TeacherZoo.load(world.checkpoint_folder).suite
    functional = FunctionalLoRA(base.model, ["model.layers.0.self_attn.q_proj"])
    zoo = ZooConfig(steps=2, batch_size=2, check_interval=100, max_grad_norm=1.0)
    framing = TeacherZoo.load(world.checkpoint_folder).framing(base)
    lessons = [make_lesson(framing, task, 0) for task in list(suite)[:2]]
    counts = []
    for steps in (2, 4):
        longer = dataclasses.replace(zoo, steps=steps)
        train = lambda chosen=longer: train_adapters(functional, lessons, LoRAConfig(rank=2), chosen, framing.pad)  # noqa: E731
        counts.append(host_syncs(train, device=()))
    assert counts[0].total() > 0  # they are scored in the end
    assert counts[0] == counts[1]


def test_a_forward_waits_for_masks_of_the_device_alone():
    model = tiny_model()
    functional = FunctionalLoRA(model, [])
    ids, mask, _ = padded_tokens(3, 9, "right")
    ask = {"logits_at": mask.bool(), "hidden_layers": (-1,), "hidden_at": mask.bool()}
    assert not host_syncs(lambda: functional(None, ids, **ask), device=[ids])
    assert host_syncs(lambda: functional(None, ids, mask, **ask), device=[ids, mask])  # what transformers asks of a mask
    on_device = {**ask, "logits_at": mask.bool()}
    assert host_syncs(lambda: functional(None, ids, **on_device), device=[ids, on_device["logits_at"]])


def test_decoding_waits_for_who_has_ended_alone():
    functional = FunctionalLoRA(tiny_model(), [])
    ids = torch.randint(3, 20, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    found = host_syncs(lambda: greedy_decode(functional, None, ids, mask, 3, {VOCABULARY}, 0), device=[ids, mask])
    assert set(found) == {"_local_scalar_dense"}  # no place is looked for that the host knows


@pytest.mark.parametrize(
    ("read", "waits"),
    [
        (lambda x: x.cpu().tolist(), 1),
        (lambda x: float(x.sum()), 1),
        (lambda x: torch.ones(3)[torch.tensor([True, False, True])].sum().item(), 0),
        (lambda x: x + torch.ones(3), 0),
        (lambda x: torch.arange(3.0).to(x.device, non_blocking=True).sum().item(), 1),
        (lambda x: (x * 2).detach().numpy(), 1),
    ],
)
def test_only_what_the_device_is_asked_counts(read, waits):
    x = torch.arange(3.0)
    assert host_syncs(lambda: read(x), device=[x]).total() == waits
