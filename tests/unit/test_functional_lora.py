"""Functional LoRA against PEFT: values, gradients, hidden states, padding, decoding; and the base stays as it was."""

from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, VOCABULARY, padded_tokens, peft_adapter, tiny_model
from tolerance import assert_near, depth, rounding

from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA, greedy_decode, wrap
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapters, target_shapes

pytestmark = [pytest.mark.numeric, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")]
TOLERANCE = rounding(8, length=48, depth=depth(2))
"""Of logits and states of size 8 or so, through two blocks of width 48 at most."""
RANKS = (2, 4, 3)


def random_factors(functional: FunctionalLoRA, n_adapters: int = 3, rank: int = 3, seed: int = 0) -> LoRAFactors:
    generator = torch.Generator().manual_seed(seed)
    factors = LoRAFactors.initialize(functional.shapes, rank, 6, n_adapters, generator)
    for b in factors.b.values():
        b.normal_(0, 0.1, generator=generator)
    return factors


@pytest.fixture
def functional() -> FunctionalLoRA:
    model = tiny_model()
    return FunctionalLoRA(model, target_shapes(model, "all-linear"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_logits_and_hidden_states_equal_peft(kind: str, side: str, device: torch.device, tmp_path: Path) -> None:
    model = tiny_model(kind).to(device)
    peft_models = [peft_adapter(model, tmp_path / str(k), seed=k, r=rank) for k, rank in enumerate(RANKS)]
    factors = read_adapters([tmp_path / str(k) for k in range(3)])
    functional = FunctionalLoRA(model, target_shapes(model, "all-linear"))
    ids, mask, positions = (tokens.to(device) for tokens in padded_tokens(6, 9, side))
    before = model(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)

    output = functional(factors, ids, mask, hidden_layers=(0, 1, -1), logits_at=mask.bool())

    split = output.logits.split(mask.sum(1).tolist())
    for row in range(6):
        one = slice(row, row + 1)
        real = mask[row].bool()
        with torch.no_grad():
            expected = peft_models[row // 2](
                input_ids=ids[one], attention_mask=mask[one], position_ids=positions[one], output_hidden_states=True
            )
        assert (split[row] - expected.logits[0, real]).abs().max() <= TOLERANCE
        for layer, hidden in output.hidden.items():
            assert (hidden[row, real] - expected.hidden_states[layer][0, real]).abs().max() <= TOLERANCE
        assert (split[row] - before.logits[row, real]).abs().max() > 100 * TOLERANCE  # the adapter does something
    after = model(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    assert torch.equal(before.logits, after.logits)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_without_factors_it_is_the_model_to_the_bit(kind: str) -> None:
    model = tiny_model(kind)
    functional = FunctionalLoRA(model, target_shapes(model, "all-linear"))
    ids, mask, positions = padded_tokens(4, 7, "left")
    expected = model(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    functional(random_factors(functional, 2), ids, mask, logits_at=mask.bool())
    output = functional(None, ids, mask, hidden_layers=(0, 2, -1), logits_at=torch.ones_like(mask).bool())
    assert torch.equal(output.logits, expected.logits.flatten(0, 1))
    assert all(torch.equal(hidden, expected.hidden_states[layer]) for layer, hidden in output.hidden.items())


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_gradients_equal_peft(kind: str, device: torch.device, tmp_path: Path) -> None:
    model = tiny_model(kind).to(device)
    peft_models = [peft_adapter(model, tmp_path / str(k), seed=k, r=rank) for k, rank in enumerate(RANKS)]
    factors = read_adapters([tmp_path / str(k) for k in range(3)])
    for tensor in factors.tensors():
        tensor.requires_grad_()
    functional = FunctionalLoRA(model, target_shapes(model, "all-linear"))
    ids, mask, positions = (tokens.to(device) for tokens in padded_tokens(6, 9, "right"))
    functional(factors, ids, mask, logits_at=mask.bool()).logits.logsumexp(-1).sum().backward()
    for k, peft_model in enumerate(peft_models):
        rows = slice(2 * k, 2 * k + 2)
        logits = peft_model(input_ids=ids[rows], attention_mask=mask[rows], position_ids=positions[rows]).logits
        logits[mask[rows].bool()].logsumexp(-1).sum().backward()
        parameters = dict(peft_model.named_parameters())
        largest = max(float(p.grad.abs().max()) for p in parameters.values() if p.grad is not None)
        for name in factors.a:
            for half, tensors in (("A", factors.a), ("B", factors.b)):
                theirs = parameters[f"base_model.model.{name}.lora_{half}.default.weight"].grad
                ours = tensors[name].grad[k]
                ours = ours[: RANKS[k]] if half == "A" else ours[:, : RANKS[k]]
                assert_near(ours, theirs, scale=largest, length=48, depth=2 * depth(2))  # there and back


def test_model_is_not_touched_and_weights_are_shared() -> None:
    model = tiny_model().requires_grad_(True)
    names, types = list(dict(model.named_parameters())), [type(module) for module in model.modules()]
    functional = FunctionalLoRA(model, target_shapes(model, "all-linear"))
    assert list(dict(model.named_parameters())) == names
    assert [type(module) for module in model.modules()] == types
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in functional.model.parameters())
    ours = {parameter.data_ptr() for parameter in functional.model.parameters()}
    assert ours == {parameter.data_ptr() for parameter in model.parameters()}


def test_frozen_parameters_are_the_same_objects(functional: FunctionalLoRA) -> None:
    model = tiny_model()
    wrapped = FunctionalLoRA(model, target_shapes(model, ["q_proj"]))
    assert {id(p) for p in wrapped.model.parameters()} == {id(p) for p in model.parameters()}


def test_many_at_once_equal_one_by_one(functional: FunctionalLoRA) -> None:
    factors = random_factors(functional)
    ids, mask, _ = padded_tokens(6, 8, "right")
    at = mask.bool()
    together = functional(factors, ids, mask, logits_at=at).logits
    rows = [slice(2 * k, 2 * k + 2) for k in range(3)]
    alone = [functional(factors.select([k]), ids[own], mask[own], logits_at=at[own]).logits for k, own in enumerate(rows)]
    assert_near(together, torch.cat(alone), length=48, depth=depth(2))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_padding_on_the_right_needs_no_mask(kind: str) -> None:
    model = tiny_model(kind)
    functional = FunctionalLoRA(model, target_shapes(model, "all-linear"))
    factors, (ids, mask, _) = random_factors(functional, 2), padded_tokens(4, 9, "right")
    ask = {"logits_at": mask.bool(), "hidden_layers": (1, -1)}
    without, told = functional(factors, ids, **ask), functional(factors, ids, mask, **ask)
    assert_near(without.logits, told.logits, length=48, depth=depth(2))
    for layer in (1, -1):
        assert_near(without.hidden[layer][mask.bool()], told.hidden[layer][mask.bool()], length=48, depth=depth(2))


def test_zero_b_changes_nothing(functional: FunctionalLoRA) -> None:
    ids, mask, _ = padded_tokens(4, 8, "left")
    zero = LoRAFactors.initialize(functional.shapes, 4, 8, 2)
    with_zero = functional(zero, ids, mask, logits_at=mask.bool()).logits
    assert torch.equal(with_zero, functional(None, ids, mask, logits_at=mask.bool()).logits)


def test_absent_modules_run_plain(functional: FunctionalLoRA) -> None:
    ids, mask, _ = padded_tokens(4, 8, "left")
    factors = random_factors(functional, 2)
    name = "model.layers.1.mlp.up_proj"
    part = LoRAFactors(*({name: whole[name]} for whole in (factors.a, factors.b, factors.scaling, factors.ranks)))
    silent = factors.map(torch.clone)
    for other in set(silent.b) - {name}:
        silent.b[other].zero_()
    torch.testing.assert_close(
        functional(part, ids, mask, logits_at=mask.bool()).logits, functional(silent, ids, mask, logits_at=mask.bool()).logits
    )


@pytest.mark.parametrize("kind", ["gemma2", "cohere"])
def test_what_the_model_does_to_logits_still_happens(kind: str) -> None:
    changes = {"head_dim": 8, "final_logit_softcapping": 0.5} if kind == "gemma2" else {"logit_scale": 0.1}
    model = tiny_model(kind, **changes)
    functional = FunctionalLoRA(model, target_shapes(model, ["q_proj"]))
    ids, mask, positions = padded_tokens(2, 7, "right")
    at = torch.zeros_like(mask).bool()
    at[0, 3] = at[1, 1] = at[1, 4] = True
    expected = model(ids, attention_mask=mask, position_ids=positions).logits[at]
    torch.testing.assert_close(functional(None, ids, mask, logits_at=at).logits, expected)


def test_adapted_output_embedding_equals_peft(tmp_path: Path) -> None:
    model = tiny_model("llama")
    peft_model = peft_adapter(model, tmp_path, target_modules=["lm_head", "q_proj"])
    functional = FunctionalLoRA(model, target_shapes(model, ["lm_head", "q_proj"]))
    ids, mask, _ = padded_tokens(2, 7, "right")
    mask = torch.ones_like(mask)
    at = mask.bool()
    at[1, :3] = False
    output = functional(read_adapters([tmp_path]), ids, mask, logits_at=at)
    assert (output.logits - peft_model(ids, attention_mask=mask).logits[at]).abs().max() <= TOLERANCE
    assert functional(None, ids, mask).logits is None


def test_logits_are_computed_only_where_asked(functional: FunctionalLoRA) -> None:
    ids, mask, _ = padded_tokens(4, 8, "right")
    seen = []
    functional.model.get_submodule("lm_head.head").register_forward_hook(lambda _, args, out: seen.append(len(out)))
    assert functional(None, ids, mask).logits is None
    at = torch.zeros_like(mask).bool()
    at[2, 3] = True
    assert functional(None, ids, mask, logits_at=at).logits.shape == (1, VOCABULARY)
    assert seen == [0, 1]


def test_missing_mask_means_no_padding(functional: FunctionalLoRA) -> None:
    ids = padded_tokens(2, 6, "right")[0]
    everywhere = torch.ones_like(ids)
    masked = functional(None, ids, everywhere, hidden_layers=[-1])
    assert torch.equal(functional(None, ids, hidden_layers=[-1]).hidden[-1], masked.hidden[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_base_gives_float32_gradients(dtype: torch.dtype, functional: FunctionalLoRA) -> None:
    half = FunctionalLoRA(tiny_model().to(dtype), functional.shapes)
    ids, mask, _ = padded_tokens(4, 8, "right")
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    gradients = []
    for wrapped in (functional, half):
        factors = random_factors(functional, 2)
        for tensor in factors.tensors():
            tensor.requires_grad_()
        wrapped(factors, ids, mask, hidden_layers=[-1]).hidden[-1].float().matmul(direction).sum().backward()
        assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for tensor in factors.tensors())
        gradients.append(torch.cat([tensor.grad.flatten() for tensor in factors.tensors()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def test_autocast_and_hooked_modules_take_the_plain_path(functional: FunctionalLoRA) -> None:
    factors = random_factors(functional, 2)
    ids, mask, _ = padded_tokens(4, 8, "right")
    fused = functional(factors, ids, mask, hidden_layers=[-1]).hidden[-1]
    for register in (torch.nn.Module.register_forward_hook, torch.nn.Module.register_forward_pre_hook):
        hooked, seen = tiny_model(), []
        register(hooked.get_submodule("model.layers.0.mlp.up_proj"), lambda *_, seen=seen: seen.append(1))
        plain = FunctionalLoRA(hooked, functional.shapes)(factors, ids, mask, hidden_layers=[-1]).hidden[-1]
        assert seen == [1]
        torch.testing.assert_close(plain, fused)
    with torch.autocast("cpu", torch.bfloat16):
        cast = functional(factors, ids, mask, hidden_layers=[-1]).hidden[-1]
    assert_near(cast, fused, length=1, depth=3 * depth(2), dtype=torch.bfloat16)  # both factors and the sum, not its terms


def test_fused_product_has_right_first_and_second_derivatives() -> None:
    from llgbm.functional_lora.fused import FusedLoRA

    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 5, 4), (2, 3, 4), (2, 3, 6)))
    weight, bias = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)

    def fused(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return FusedLoRA.apply(x, weight, bias, a, b)[0]

    torch.testing.assert_close(fused(x, a, b), x @ weight.T + bias + x @ a.mT @ b)
    assert torch.autograd.gradcheck(fused, (x, a, b))
    assert torch.autograd.gradgradcheck(fused, (x, a, b))


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "mistral"])
def test_greedy_decoding_equals_decoding_without_a_cache(kind: str, device: torch.device) -> None:
    model = tiny_model(kind).to(device)
    functional = FunctionalLoRA(model, target_shapes(model, "all-linear"))
    factors = random_factors(functional, 2)
    ids, mask, _ = (tokens.to(device) for tokens in padded_tokens(4, 6, "left"))
    new = greedy_decode(functional, factors, ids, mask, 8, ends={VOCABULARY + 1}, pad_token_id=0)
    for _ in range(8):
        last = torch.zeros_like(mask).bool()
        last[:, -1] = True
        chosen = functional(factors, ids, mask, logits_at=last).logits.argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, chosen], 1), torch.cat([mask, torch.ones_like(chosen)], 1)
    assert torch.equal(new, ids[:, 6:])


def test_greedy_decoding_with_a_prior_takes_the_most_likely_of_adapter_and_base_together(functional: FunctionalLoRA) -> None:
    factors = random_factors(functional, 2)
    ids, mask, _ = padded_tokens(4, 6, "left")
    ends = {VOCABULARY + 1}
    without = greedy_decode(functional, factors, ids, mask, 8, ends, pad_token_id=0)
    new = greedy_decode(functional, factors, ids, mask, 8, ends, pad_token_id=0, prior=0.5)
    assert not torch.equal(new, without)
    assert torch.equal(
        greedy_decode(functional, None, ids, mask, 8, ends, 0, prior=0.5), greedy_decode(functional, None, ids, mask, 8, ends, 0)
    )
    for _ in range(8):
        last = torch.zeros_like(mask).bool()
        last[:, -1] = True
        own, base = (functional(voice, ids, mask, logits_at=last).logits.log_softmax(-1) for voice in (factors, None))
        chosen = (own + 0.5 * base).argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, chosen], 1), torch.cat([mask, torch.ones_like(chosen)], 1)
    assert torch.equal(new, ids[:, 6:])


def test_greedy_decoding_stops_and_pads_after_the_end(functional: FunctionalLoRA) -> None:
    ids, mask, _ = padded_tokens(4, 6, "left")
    free = greedy_decode(functional, None, ids, mask, 6, ends={VOCABULARY + 1}, pad_token_id=0)
    end = int(free[0, 2])
    ended = greedy_decode(functional, None, ids, mask, 6, ends={end, VOCABULARY + 1}, pad_token_id=0)
    for row, tokens in zip(free.tolist(), ended.tolist(), strict=True):
        stop = row.index(end) + 1 if end in row else len(row)
        assert tokens == (row[:stop] + [0] * 6)[: len(tokens)]
    one = greedy_decode(functional, None, ids[:1], mask[:1], 6, ends={int(free[0, 0])}, pad_token_id=0)
    assert one.shape == (1, 1)
    assert greedy_decode(functional, None, ids, mask, 0, {end}, 0).shape == (4, 0)


def test_a_transformers_that_keeps_all_layers_gives_the_same(functional: FunctionalLoRA, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask, _ = padded_tokens(4, 6, "left")
    few = functional(None, ids, mask, hidden_layers=(0, 1, -1)).hidden
    monkeypatch.setattr(wrap, "KEEPS_CHOSEN_LAYERS", not wrap.KEEPS_CHOSEN_LAYERS)
    every = functional(None, ids, mask, hidden_layers=(0, 1, -1)).hidden
    assert few.keys() == every.keys() == {0, 1, -1}
    assert all(torch.equal(few[layer], every[layer]) for layer in few)


def test_greedy_decoding_gives_up_rows_without_hope_and_goes_on_with_the_others(functional: FunctionalLoRA) -> None:
    ids, mask, _ = padded_tokens(4, 6, "left")
    free = greedy_decode(functional, None, ids, mask, 6, ends={VOCABULARY + 1}, pad_token_id=0)
    asked = []

    def hopeless(row: int, said: list[int]) -> bool:
        asked.append((row, said))
        return row == 1 and len(said) == 2

    new = greedy_decode(functional, None, ids, mask, 6, ends={VOCABULARY + 1}, pad_token_id=0, hopeless=hopeless)
    assert torch.equal(new[[0, 2, 3]], free[[0, 2, 3]])
    assert new[1].tolist() == [*free[1, :2].tolist(), 0, 0, 0, 0]
    assert all(said == free[row, : len(said)].tolist() for row, said in asked)
    assert [len(said) for row, said in asked if row == 1] == [1, 2]


def test_faults_are_named(functional: FunctionalLoRA) -> None:
    ids, mask, _ = padded_tokens(4, 6, "right")
    with pytest.raises(InputError, match=r"4 sequences for 3 adapters"):
        functional(random_factors(functional, 3), ids, mask)
    with pytest.raises(InputError, match=r"layer 3 does not exist; this base has hidden states 0 to 2"):
        functional(None, ids, mask, hidden_layers=[3])
    few = FunctionalLoRA(tiny_model(), ["model.layers.0.mlp.up_proj"])
    with pytest.raises(InputError, match=r"q_proj has .* the wrapped base has no slot there"):
        few(random_factors(functional, 2), ids, mask)
    with pytest.raises(InputError, match=r"no module model.layers.7"):
        FunctionalLoRA(tiny_model(), ["model.layers.7.mlp.up_proj"])
    with pytest.raises(InputError, match=r"is a Embedding, not nn.Linear"):
        FunctionalLoRA(tiny_model(), ["model.embed_tokens"])
    headless = tiny_model()
    headless.get_output_embeddings = lambda: None
    with pytest.raises(InputError, match=r"Qwen2ForCausalLM, has no output embedding"):
        FunctionalLoRA(headless, [])
    with pytest.raises(InputError, match=r"padded on the right"):
        greedy_decode(functional, None, ids, mask, 2, {2}, 0)


def test_factors_go_where_the_module_is_in_the_dtype_of_the_base(device: torch.device) -> None:
    functional = FunctionalLoRA(tiny_model().bfloat16().to(device), ["model.layers.0.mlp.up_proj"])
    factors = random_factors(functional, 2)
    assert {tensor.device.type for tensor in factors.tensors()} == {"cpu"}
    for tensor in functional._substituted(factors, 2).values():
        assert (tensor.device.type, tensor.dtype) == (device.type, torch.bfloat16)
    meta = FunctionalLoRA(tiny_model().to("meta"), ["model.layers.0.mlp.up_proj"])
    assert all(tensor.is_meta for tensor in meta._substituted(factors, 2).values())


def test_buffers_of_the_copy_are_shared() -> None:
    model = tiny_model()
    model.register_buffer("probe", torch.ones(1))
    wrapped = FunctionalLoRA(model, ["model.layers.0.mlp.up_proj"])
    assert wrapped.model.get_buffer("probe") is model.get_buffer("probe")
