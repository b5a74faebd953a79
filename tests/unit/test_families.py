"""Every family of causal LMs against PEFT: what the sweep finds is what its table and the page say; and who is refused, and how."""

import pytest
import torch
from sweep_families import FAMILIES, PAGE, TABLE, section, try_family, with_section
from tiny_families import tiny_model
from torch import nn

from llgbm.errors import InputError
from llgbm.files import read_json, read_text
from llgbm.functional_lora import FunctionalLoRA, greedy_decode
from llgbm.functional_lora.families import COUNT_PADDING, ENCODERS, REFUSED
from llgbm.functional_lora.fused import Slot
from llgbm.lora.peft_io import target_shapes
from llgbm.lora.targets import REFUSED_BY_PEFT

QUICK = ("bloom", "jamba", "llama4_text", "openai-gpt", "deepseek_v3", "roberta", "rwkv", "xlnet")
"""One of each kind: a residual into the feed-forward block, weights read by the model, a router that returns a tuple, no
cache, fused experts, positions of its own, padding that counts, refused."""


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in FAMILIES])
def test_a_family_is_as_the_table_says(kind: str) -> None:
    assert try_family(kind) == read_json(TABLE)[kind]


def test_the_table_has_every_family_and_none_that_differs() -> None:
    table = read_json(TABLE)
    assert tuple(table) == tuple(sorted(FAMILIES))
    assert {entry["found"] for entry in table.values()} <= {"agrees", "refused", "untried"}
    assert {*REFUSED, *ENCODERS, *COUNT_PADDING, *REFUSED_BY_PEFT} <= set(FAMILIES)


def test_the_page_lists_what_the_table_says() -> None:
    page, table = read_text(PAGE), read_json(TABLE)
    assert with_section(page, table) == page
    assert section(table) in page


def test_families_that_are_no_decoders_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"base of family xlnet is not supported: its tokens see later ones; use another"):
        FunctionalLoRA(tiny_model("xlnet"), [])
    model = tiny_model("bert")
    FunctionalLoRA(model, [])
    model.config.is_decoder = False
    with pytest.raises(InputError, match=r"base of family bert is an encoder: its tokens see later ones; .* is_decoder true"):
        FunctionalLoRA(model, [])


def test_prompts_of_several_lengths_are_refused_where_padding_counts() -> None:
    functional = FunctionalLoRA(tiny_model("rwkv"), [])
    ids, mask = torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)
    assert greedy_decode(functional, None, ids, mask, 2, {99}, 0).shape == (2, 2)
    mask[1, :2] = 0
    with pytest.raises(InputError, match=r"base of family rwkv counts padding as tokens; decode prompts of one length at a time"):
        greedy_decode(functional, None, ids, mask, 2, {99}, 0)


def test_a_module_that_sees_some_tokens_only_is_refused() -> None:
    slot = Slot(nn.Linear(3, 2))
    slot.lora_a, slot.lora_b = torch.zeros(2, 1, 3), torch.zeros(2, 1, 2)
    assert slot(torch.zeros(4, 3)).shape == (4, 2)
    with pytest.raises(InputError, match=r"3 inputs was given 5 tokens for 2 adapters, so it sees only some tokens"):
        slot(torch.zeros(5, 3))


def test_targets_that_plain_peft_would_not_load_are_left_out_or_refused() -> None:
    experts, mamba, router = tiny_model("deepseek_v3"), tiny_model("mamba"), tiny_model("llama4_text")
    assert not {"gate_proj", "up_proj"} & {name.rpartition(".")[2] for name in target_shapes(experts, "all-linear")}
    with pytest.raises(InputError, match=r"gate_proj, which PEFT takes for the fused experts of a deepseek_v3; leave out gate_proj"):
        target_shapes(experts, ["q_proj", "gate_proj"])
    with pytest.raises(InputError, match=r"out_proj, which PEFT does not load in a mamba; leave out out_proj .others are"):
        target_shapes(mamba, ["in_proj", "out_proj"])
    with pytest.raises(InputError, match=r"router, a Llama4Router; only linear modules"):
        target_shapes(router, ["router"])
    with pytest.raises(InputError, match=r"router is a Llama4Router, not nn.Linear or Conv1D"):
        FunctionalLoRA(router, [next(name for name, _ in router.named_modules() if name.endswith("router"))])


def test_a_base_without_numbers_can_be_wrapped() -> None:
    functional = FunctionalLoRA(tiny_model("qwen2").to("meta"), [])
    assert functional.device.type == "meta"
