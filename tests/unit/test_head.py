"""The head by chunks: the same logits, losses and gradients as all at once, whatever the model does to its logits."""

import pytest
import torch
from tolerance import assert_near, depth
from torch.nn import functional as F
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llgbm.delta.behavior import Predictions, top_predictions
from llgbm.functional_lora import ChunkedLogits, FunctionalLoRA, by_token
from llgbm.functional_lora import wrap as wrap_module
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import token_kl, token_nll
from llgbm.memory import peak_bytes

pytestmark = pytest.mark.numeric
HEAD = {"length": 64, "depth": 4}
"""Of what chunks change: the head over 16 numbers, softmax and losses over a vocabulary of 61."""
GAIN = 4
"""Rounding of two blocks grows on the way: sums over 16 to 24 weights of standard deviation 0.4 are about twice as large as their terms."""

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
ENDS = {"vocab_size": 61, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ENDS)),
    "gemma2 (softcapped logits)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, **ENDS, head_dim=8, final_logit_softcapping=0.5, query_pre_attn_scalar=8)
    ),
    "cohere (scaled logits)": lambda: CohereForCausalLM(CohereConfig(**SHAPE, **ENDS, logit_scale=0.3)),
    "phi (head bias)": lambda: PhiForCausalLM(PhiConfig(**SHAPE, **ENDS)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **ENDS)),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request) -> PreTrainedModel:
    torch.manual_seed(0)
    model = request.param().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.4)
    return model


@pytest.fixture
def small_chunks(monkeypatch):
    """Three tokens of 61 logits at once."""
    monkeypatch.setattr(wrap_module, "LOGITS_BYTES", 3 * 4 * 61)


def wrapped(model: PreTrainedModel) -> tuple[FunctionalLoRA, LoRAFactors, torch.Tensor, torch.Tensor]:
    """Two adapters, two rows of each, and where their logits are wanted."""
    ending = ("c_attn", "q_proj", "self_attn.dense")
    functional = FunctionalLoRA(model, [n for n, m in model.named_modules() if n.endswith(ending)])
    factors = LoRAFactors.initialize(functional.shapes, 2, 4.0, 2, torch.Generator().manual_seed(0))
    for tensor in factors.tensors():
        tensor.normal_(generator=torch.Generator().manual_seed(1)).requires_grad_()
    ids = torch.randint(3, 61, (4, 7), generator=torch.Generator().manual_seed(2))
    return functional, factors, ids, torch.rand(4, 7, generator=torch.Generator().manual_seed(3)) < 0.5


def losses(functional, factors, ids, at, chunked):
    """KL to a fixed distribution plus likelihood of fixed tokens, weighed unevenly; and the gradients."""
    out = functional(factors, ids, logits_at=at, chunked=chunked)
    assert isinstance(out.any_logits, ChunkedLogits) == chunked
    n = int(at.sum())
    theirs = torch.randn(n, 61, generator=torch.Generator().manual_seed(4)).log_softmax(-1)
    gold = torch.randint(61, (n,), generator=torch.Generator().manual_seed(5))
    values = token_kl(Predictions(theirs), out.any_logits) + 2 * token_nll(out.any_logits, gold)
    gradients = torch.autograd.grad((values * torch.linspace(1, 2, n)).sum(), factors.tensors())
    return values, gradients


def test_losses_and_gradients_equal_those_of_all_logits(model, small_chunks):
    functional, factors, ids, at = wrapped(model)
    whole, chunked = (losses(functional, factors, ids, at, by_chunks) for by_chunks in (False, True))
    assert_near(chunked[0], whole[0], **HEAD)
    largest = torch.cat([theirs.flatten() for theirs in whole[1]])
    for ours, theirs in zip(chunked[1], whole[1], strict=True):
        assert_near(ours, theirs, scale=GAIN * largest, length=64, depth=2 * depth(2))  # there and back


def test_logits_are_the_models_own(model, small_chunks):
    functional, _, ids, at = wrapped(model)
    out = functional(None, ids, logits_at=at, chunked=True)
    assert_near(out.chunked[:], model(ids).logits[at], length=24, depth=depth(2))
    assert len(out.chunked) == int(at.sum())


def test_teachers_predictions_come_by_chunks_too(small_chunks):
    functional, factors, ids, at = wrapped(MODELS["qwen2"]())
    with torch.no_grad():
        lazy, whole = (functional(factors, ids, logits_at=at, chunked=c).any_logits for c in (True, False))
    for top_k in (0, 4):
        ours, theirs = top_predictions(lazy, top_k), top_predictions(whole, top_k)
        assert_near(ours.log_probs[:], theirs.log_probs, **HEAD)
        assert (ours.tokens is None) == (top_k == 0)
        assert top_k == 0 or torch.equal(ours.tokens, theirs.tokens)
        for mine, yours in ((whole.flip(0), whole.flip(0)), (lazy, whole)):  # log-probabilities are rounded on the way
            assert_near(token_kl(ours, mine), token_kl(theirs, yours), scale=theirs.log_probs, **HEAD)
    some = torch.tensor([2, 0])
    torch.testing.assert_close(lazy.select(some)[:], whole[some])
    torch.testing.assert_close(lazy.repeat(2, 1)[:], whole.repeat(2, 1))


def test_small_logits_are_there_at_once_and_a_head_with_adapters_is_not_cut(monkeypatch):
    functional, factors, ids, at = wrapped(MODELS["qwen2"]())
    assert functional(factors, ids, logits_at=at, chunked=True).chunked is None
    monkeypatch.setattr(wrap_module, "LOGITS_BYTES", 1)
    adapted = FunctionalLoRA(MODELS["qwen2"](), ["lm_head"])
    assert adapted(None, ids, logits_at=at, chunked=True).chunked is None


def test_memory_does_not_grow_with_the_logits(small_chunks):
    torch.manual_seed(0)
    states, head = torch.randn(300, 8, requires_grad=True), torch.randn(8, 5000)

    def work(at_once: int) -> None:
        values = by_token(lambda own: own.logsumexp(-1), ChunkedLogits(states, lambda x: x @ head, at_once))
        values.sum().backward()

    assert peak_bytes(lambda: work(300)) > 300 * 5000 * 4
    assert peak_bytes(lambda: work(10)) < 300 * 5000 * 4 / 5


def test_by_token_equals_the_function_itself():
    logits, gold = torch.randn(5, 7), torch.arange(5)
    expected = F.cross_entropy(logits, gold, reduction="none")
    torch.testing.assert_close(token_nll(logits, gold), expected)
    torch.testing.assert_close(token_nll(ChunkedLogits(logits, lambda x: x, 2), gold), expected)
