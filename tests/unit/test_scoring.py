import copy

import pytest
import torch
from tolerance import assert_near, depth, rounding
from transformers import Qwen2ForCausalLM

from llgbm.dataset import NO_LABEL, TokenBatch, concatenate
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.scoring import Score, score, score_each
from llgbm.zoo.micro.pretraining import PretrainConfig, build_base
from llgbm.zoo.micro.tokenizer import build_tokenizer

pytestmark = pytest.mark.numeric
WIDTHS = {"length": 64, "depth": depth(2)}
"""Of the tiny base and its vocabulary."""

K, ROWS, PAD = 3, 4, 0
TARGETS = ("self_attn.q_proj", "mlp.down_proj")


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    config = PretrainConfig(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4)
    tiny = build_base(config, build_tokenizer()).eval().requires_grad_(False)
    for parameter in tiny.parameters():  # the shipped initialization is so small that every argmax is nearly a tie
        if parameter.ndim == 2:
            parameter.mul_(8)
    return tiny


@pytest.fixture(scope="module")
def functional(model: Qwen2ForCausalLM) -> FunctionalLoRA:
    return FunctionalLoRA(model, [n for n, _ in model.named_modules() if n.endswith(TARGETS)])


@pytest.fixture(scope="module")
def factors(functional: FunctionalLoRA) -> LoRAFactors:
    generator = torch.Generator().manual_seed(1)
    drawn = LoRAFactors.initialize(functional.shapes, rank=2, alpha=4.0, n_adapters=K, generator=generator)
    for b in drawn.b.values():
        b.normal_(generator=generator)
    return drawn


def merged(model: Qwen2ForCausalLM, factors: LoRAFactors, k: int) -> Qwen2ForCausalLM:
    """The base with one adapter added into its weights: the reference that shares nothing with functional LoRA."""
    adapted = copy.deepcopy(model)
    for name in factors.module_names:
        weight = adapted.get_submodule(name).weight
        weight.data += factors.scaling[name][k] * factors.b[name][k] @ factors.a[name][k]
    return adapted


def decode(model: Qwen2ForCausalLM, prompt: list[int], count: int) -> list[int]:
    """Transformers' own greedy decoding of `count` tokens, whatever they are."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=PAD
    )
    return out[0, len(prompt) :].tolist()


def answered(prompt: list[int], answer: list[int]) -> TokenBatch:
    ids = torch.tensor([prompt + answer])
    return TokenBatch(ids, torch.ones_like(ids), torch.tensor([[NO_LABEL] * len(prompt) + answer]))


def drawn_batches(model: Qwen2ForCausalLM, factors: LoRAFactors | None, rows: list[int]) -> tuple[list[TokenBatch], list[list[bool]]]:
    """Per adapter: answers that greedy decoding gives, and answers with one token changed; which is which."""
    generator = torch.Generator().manual_seed(2)

    def random(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    batches, expected = [], []
    for k, count in enumerate(rows):
        adapted = model if factors is None else merged(model, factors, k)
        parts, truth = [], []
        for row in range(count):
            prompt = [random(3, 100) for _ in range(random(2, 9))]
            answer = decode(adapted, prompt, random(1, 6))
            if row % 2:
                place = random(0, len(answer))
                answer[place] = 3 + (answer[place] + 1) % 90
            parts.append(answered(prompt, answer))
            truth.append(row % 2 == 0)
        batches.append(concatenate(parts, PAD))
        expected.append(truth)
    return batches, expected


def test_exact_match_equals_greedy_decoding_of_the_merged_model(model, functional, factors):
    batches, expected = drawn_batches(model, factors, [ROWS] * K)
    found = score(functional, factors, concatenate(batches, PAD))
    assert found.exact.tolist() == [truth for task in expected for truth in task]
    assert 0 < found.exact_match < 1


def test_nll_equals_the_merged_models_loss_in_float64(model, functional, factors):
    batches, _ = drawn_batches(model, factors, [ROWS] * K)
    found = score(functional, factors, concatenate(batches, PAD))
    for k, batch in enumerate(batches):
        reference = merged(model, factors, k).double()
        for j in range(ROWS):
            one = batch.rows([j])
            logits = reference(one.input_ids).logits[0, :-1].log_softmax(-1)
            picked = [-logits[t, label].item() for t, label in enumerate(one.labels[0, 1:].tolist()) if label != NO_LABEL]
            assert found.nll_sum[k * ROWS + j].item() == pytest.approx(sum(picked), rel=0, abs=rounding(sum(picked) + 1, **WIDTHS))
            assert found.n_tokens[k * ROWS + j] == len(picked)


@pytest.mark.parametrize("free", [1, 60_000, 200_000, 1 << 30])
def test_memory_changes_nothing(model, functional, factors, free, monkeypatch):
    batch = concatenate(drawn_batches(model, factors, [ROWS] * K)[0], PAD)
    tight, sizes = FunctionalLoRA(model, functional.shapes), []
    monkeypatch.setattr(tight.memory, "free_bytes", lambda settled=True: free)
    run = tight.model.forward
    monkeypatch.setattr(tight.model, "forward", lambda ids, **others: sizes.append(len(ids)) or run(ids, **others))
    one, other = score(tight, factors, batch), score(functional, factors, batch)
    assert max(sizes) == {1: 1, 60_000: 1, 200_000: ROWS, 1 << 30: K * ROWS}[free], sizes
    assert torch.equal(one.exact, other.exact)
    assert torch.equal(one.n_tokens, other.n_tokens)
    assert_near(one.nll_sum, other.nll_sum, **WIDTHS)


def test_running_out_of_memory_halves_the_rows_and_changes_nothing(model, functional, factors, monkeypatch, caplog):
    batch = concatenate(drawn_batches(model, factors, [ROWS] * K)[0], PAD)
    tight, sizes = FunctionalLoRA(model, functional.shapes), []
    run = tight.model.forward

    def forward(ids, **others):
        if len(ids) > 3:
            torch.empty(1 << 60, dtype=torch.uint8)  # the system refuses this
        sizes.append(len(ids))
        return run(ids, **others)

    monkeypatch.setattr(tight.model, "forward", forward)
    one, other = score(tight, factors, batch), score(functional, factors, batch)
    assert torch.equal(one.exact, other.exact)
    assert_near(one.nll_sum, other.nll_sum, **WIDTHS)
    assert max(sizes) == 2  # 12, one adapter, half of one
    assert "12 rows of scoring were too much; going on with 6" in caplog.text


def test_base_alone_is_scored_without_adapters(model, functional):
    batches, expected = drawn_batches(model, None, [5])
    assert score(functional, None, batches[0]).exact.tolist() == expected[0]


def test_adapters_with_different_numbers_of_rows_keep_their_order(model, functional, factors):
    batches, expected = drawn_batches(model, factors, [2, 5, 3])
    found = score_each(functional, factors, batches, PAD)
    assert [s.exact.tolist() for s in found] == expected
    alone = [score(functional, factors.select([k]), batch) for k, batch in enumerate(batches)]
    assert_near(torch.cat([s.nll_sum for s in found]), torch.cat([s.nll_sum for s in alone]), **WIDTHS)


def test_nll_is_nats_per_token_over_all_rows():
    one, five = torch.tensor([1]), torch.tensor([5])
    joined = Score.join([Score(torch.tensor([True]), torch.tensor([2.0]), one, five, torch.ones(1)),
                         Score(torch.tensor([False]), torch.tensor([1.0]), 2 * one, five, torch.zeros(1))])  # fmt: skip
    assert (joined.nll, joined.exact_match, len(joined)) == (1.0, 0.5, 2)


def test_what_is_read_is_counted_without_padding_and_answer(functional, factors):
    batch = concatenate([answered([5, 6], [7]), answered([5, 6, 8, 9], [7, 4]), answered([5], [4])], PAD)
    found = score(functional, factors, batch)
    assert found.n_read.tolist() == [2, 4, 1]
    assert found.rows(slice(1, 3)).n_read.tolist() == [4, 1]


def test_rows_must_be_a_multiple_of_adapters(functional, factors):
    batch = concatenate([answered([5, 6], [7])] * (K + 1), PAD)
    with pytest.raises(InputError, match="4 rows for 3 adapters"):
        score(functional, factors, batch)


def test_a_row_without_answer_is_named(functional):
    batch = concatenate([answered([5, 6], [7]), answered([5, 6], [])], PAD)
    with pytest.raises(InputError, match="row 1 has no response token"):
        score(functional, None, batch)


def test_batches_must_match_adapters(functional, factors):
    with pytest.raises(InputError, match="1 batches for 3 adapters"):
        score_each(functional, factors, [answered([5, 6], [7])], PAD)
