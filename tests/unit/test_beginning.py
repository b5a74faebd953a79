"""What an adapter's rows begin with alike is read once, and nothing comes out otherwise."""

import pytest
import torch
from tolerance import assert_near, depth
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from llgbm.dataset import TokenBatch, answered
from llgbm.functional_lora import FunctionalLoRA, answer_logits, beginning
from llgbm.functional_lora.virtual import prefixed, virtual_tokens
from llgbm.lora.factors import LoRAFactors
from llgbm.scoring import score

pytestmark = pytest.mark.numeric
VOCABULARY, WIDTH, K, EACH, PAD = 40, 16, 3, 4, 0
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
BASES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=1)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=1, sliding_window=6)),
}
SLOTS = {"llama": ("q_proj", "v_proj", "down_proj"), "gpt2": ("c_attn", "mlp.c_proj"), "mistral with a window": ("q_proj",)}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(beginning, "WORTHWHILE_TOKENS", 0)


def wrapped(kind: str) -> FunctionalLoRA:
    torch.manual_seed(0)
    model: PreTrainedModel = BASES[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # logits that differ, attention that does not magnify rounding
    return FunctionalLoRA(model, [name for name, _ in model.named_modules() if name.endswith(SLOTS[kind])])


def drawn(functional: FunctionalLoRA) -> LoRAFactors:
    rng = torch.Generator().manual_seed(1)
    factors = LoRAFactors.initialize(functional.shapes, rank=2, alpha=4.0, n_adapters=K, generator=rng)
    return factors.map(lambda tensor: torch.randn(tensor.shape, generator=rng))


def asked(length: int = 9) -> TokenBatch:
    """Rows of other lengths, each adapter's after a beginning of its own."""
    rng = torch.Generator().manual_seed(2)

    def tokens(count: int) -> list[int]:
        return torch.randint(1, VOCABULARY, (count,), generator=rng).tolist()

    beginnings = [tokens(length) for _ in range(K)]
    rows = [([*beginnings[k], 1 + j, *tokens(j)], tokens(1 + (j + k) % 3)) for k in range(K) for j in range(EACH)]
    return answered(rows, PAD)


def read(functional: FunctionalLoRA, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what the base is given from now on."""
    shapes, call = [], FunctionalLoRA.__call__

    def kept(self, factors, input_ids, *others, **more):
        shapes.append(tuple(input_ids.shape))
        return call(self, factors, input_ids, *others, **more)

    _ = functional.goes_on_from_cache
    monkeypatch.setattr(FunctionalLoRA, "__call__", kept)
    return shapes


@pytest.mark.parametrize("with_adapters", [True, False])
@pytest.mark.parametrize("kind", BASES)
def test_logits_are_those_of_whole_rows(kind, with_adapters, monkeypatch):
    functional, batch = wrapped(kind), asked()
    factors = drawn(functional) if with_adapters else None
    if not with_adapters:
        batch = batch.rows(slice(0, EACH))
    whole = functional(factors, batch.input_ids, logits_at=batch.predicts).logits
    shapes = read(functional, monkeypatch)
    assert_near(answer_logits(functional, factors, batch), whole, length=64, depth=depth(2))
    width, few = batch.input_ids.shape[1], K if with_adapters else 1
    begun = [(len(batch), width)] if kind.startswith("mistral") else [(few, 9), (len(batch), width - 9)]
    assert shapes == begun


def test_scores_are_those_of_rows_alone(monkeypatch):
    functional, batch = wrapped("llama"), asked()
    factors = drawn(functional)
    together = score(functional, factors, batch)
    monkeypatch.setattr(beginning, "WORTHWHILE_TOKENS", 10**9)
    alone = score(functional, factors, batch)
    assert_near(together.nll_sum, alone.nll_sum, length=64, depth=depth(2))
    assert torch.equal(together.n_read, alone.n_read)
    assert torch.equal(together.strays, alone.strays)


def test_virtual_tokens_are_a_beginning_too(monkeypatch):
    functional = wrapped("llama")
    batch = prefixed(functional, asked().rows(slice(0, EACH)), [0] * EACH, 5)
    with virtual_tokens(functional, torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(3))):
        whole = functional(None, batch.input_ids, logits_at=batch.predicts).logits
        shapes = read(functional, monkeypatch)
        assert_near(answer_logits(functional, None, batch), whole, length=64, depth=depth(2))
    assert shapes[0] == (1, 5 + 9)


def test_what_predicts_an_answer_is_never_in_it():
    rows = [([1, 2, 3], [4, 5]), ([1, 2, 3], [4, 6])]
    assert beginning.shared_length(answered(rows, PAD), 1) == 2
    assert beginning.shared_length(answered(rows, PAD), 2) == 2
    assert beginning.shared_length(answered([([7, 2, 3], [4]), ([1, 2, 3], [4])], PAD), 1) == 0
    assert beginning.shared_length(answered([([7, 2, 3], [4]), ([1, 2, 3], [4])], PAD), 2) == 2


def test_rows_that_would_spare_little_are_read_whole(monkeypatch):
    functional, batch = wrapped("llama"), asked(length=2)
    shapes = read(functional, monkeypatch)
    answer_logits(functional, drawn(functional), batch)
    monkeypatch.setattr(beginning, "WORTHWHILE_TOKENS", 1000)
    answer_logits(functional, drawn(functional), asked())
    assert [rows for rows, _ in shapes] == [len(batch)] * 2
