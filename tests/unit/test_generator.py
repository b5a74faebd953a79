"""The generator: starts at zero, does not care about order, padding or batch, and survives saving."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tolerance import assert_near

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.models.encoder import HashingEncoder
from llgbm.models.generator import LoRAGenerator, group_modules
from llgbm.models.reader import collect_conditions, embed_conditions, pad_sets
from llgbm.models.writer import GeneratorSpec

SHAPES = {
    "model.layers.0.self_attn.q_proj": (12, 12),
    "model.layers.0.mlp.up_proj": (12, 20),
    "model.layers.2.self_attn.q_proj": (12, 12),
    "model.layers.2.mlp.up_proj": (12, 24),
    "lm_head": (12, 30),
}


WIDTHS = {"length": 512, "depth": 12}
"""Of size s: projection, value and score, their sum, two blocks of two layers, norm, code, factor."""


def new_generator(seed: int = 0, **changes) -> LoRAGenerator:
    torch.manual_seed(seed)
    spec = GeneratorSpec(**{"shapes": SHAPES, "rank": 3, "alpha": 6.0, "embedding_dim": 64, **changes})
    return LoRAGenerator(spec, HashingEncoder(64)).eval()


def trained(seed: int = 0, **changes) -> LoRAGenerator:
    """A generator whose B is not zero any more."""
    generator = new_generator(seed, **changes)
    for head in generator.heads:
        torch.nn.init.normal_(head.write_b.weight)
    return generator


def started(**changes) -> LoRAGenerator:
    """A trained generator that starts from a ridge regression."""
    generator, zoo = trained(ridge=3, **changes), teachers(5)
    generator.fit_scale(zoo)
    texts = torch.randn(5, 2, 64, generator=torch.Generator().manual_seed(2))
    generator.fit_start(zoo, list(texts), [0, 1, 2, 3, 4], 0.01)
    torch.nn.init.normal_(generator.weigh.weight, std=0.1)
    return generator


MAKERS = {"pool": trained, "slots": lambda: trained(slots=3), "ridge": lambda: started(slots=2)}


@pytest.fixture(params=MAKERS)
def any_generator(request) -> LoRAGenerator:
    """Trained, of every kind."""
    return MAKERS[request.param]()


def teachers(n: int = 4, rank: int = 3) -> LoRAFactors:
    factors = LoRAFactors.initialize(SHAPES, rank, 6.0, n, torch.Generator().manual_seed(1))
    for b in factors.b.values():
        b.normal_(std=0.02)
    return factors


def assert_factors_near(found: LoRAFactors, expected: LoRAFactors) -> None:
    for ours, theirs in zip(found.tensors(), expected.tensors(), strict=True):
        assert_near(ours, theirs, **WIDTHS)


def test_modules_of_a_kind_and_shape_share_a_head():
    groups, n_layers = group_modules(SHAPES)
    assert n_layers == 3  # layers 0 and 2, and modules without a layer
    found = {group.names for group in groups}
    assert ("model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj") in found
    assert ("model.layers.0.mlp.up_proj",) in found
    assert ("lm_head",) in found


def test_a_new_generator_writes_the_zero_adapter_in_the_asked_shapes():
    factors = new_generator().generate(description=["one", "two"])
    assert factors.n_adapters == 2
    assert factors.shapes == SHAPES
    assert all(not b.any() for b in factors.b.values())
    assert all(a.any() for a in factors.a.values())
    assert all(s.tolist() == [2.0, 2.0] for s in factors.scaling.values())
    assert set(factors.ranks.values()) == {(3, 3)}


def test_every_parameter_gets_a_gradient_once_b_has_left_zero(any_generator):
    generator = any_generator.train()
    factors = generator(torch.randn(2, 3, 64), torch.ones(2, 3, dtype=torch.bool))
    sum((t * torch.randn_like(t)).sum() for t in factors.tensors()).backward()
    missing = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


@pytest.mark.numeric
def test_order_padding_and_batch_do_not_matter(any_generator):
    generator, rows = any_generator, torch.randn(5, 64)
    alone = generator(*pad_sets([rows]))
    assert_factors_near(generator(*pad_sets([rows[[3, 1, 4, 0, 2]]])), alone)
    padded = generator(*pad_sets([torch.randn(9, 64), rows]))
    assert_factors_near(padded.select([1]), alone)


@pytest.mark.numeric
def test_repeating_a_text_changes_nothing(any_generator):
    assert_factors_near(any_generator.generate(prompts=["a b c"] * 7), any_generator.generate(description="a b c"))


def test_different_conditions_give_different_adapters(any_generator):
    factors = any_generator.generate(description=["reverse the string", "sort the digits"])
    assert not torch.allclose(factors.b["lm_head"][0], factors.b["lm_head"][1])


@pytest.mark.numeric
def test_scale_follows_the_teachers():
    generator, zoo = trained(), teachers()
    for a in zoo.a.values():
        a[:] = a[:1] + 0.1 * a
    generator.fit_scale(zoo)
    factors = generator.generate(description="x")
    for name in SHAPES:
        mean = zoo.a[name].mean(0)
        assert (factors.a[name][0] - mean).norm() < 0.5 * mean.norm()
    head = next(h for h in generator.heads if "lm_head" in h.group.names)
    assert_near(head.rms_b[0], zoo.b["lm_head"].double().square().mean().sqrt(), length=4 * 3 * 30, depth=2)


def test_scale_leaves_out_teachers_that_do_not_target_a_module():
    generator = new_generator()
    part = LoRAFactors.initialize({"lm_head": SHAPES["lm_head"]}, 3, 6.0, 2, torch.Generator().manual_seed(0))
    generator.fit_scale(LoRAFactors.stack([part, teachers(1)]))
    generator.fit_scale(LoRAFactors({**teachers().a}, teachers().b, teachers().scaling, dict.fromkeys(SHAPES, (0,) * 4)))
    head = next(h for h in generator.heads if "model.layers.0.mlp.up_proj" in h.group.names)
    assert head.rms_b[0].item() == pytest.approx(0.02, rel=0.2)  # of 60 drawn numbers


@pytest.mark.numeric
def test_slots_are_read_apart_and_summed():
    generator = trained(slots=3)
    read = generator.front(torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool))
    assert read.shape == (2, 3, 256)
    other = read.clone()
    other[:, 1] = torch.randn(2, 256)
    changed = [slot(other[:, i]) - slot(read[:, i]) for i, slot in enumerate(generator.trunk.slots)]
    assert not changed[0].any()
    assert_near(generator.trunk(other) - generator.trunk(read), changed[1] / 3**0.5, length=512, depth=4)


@pytest.mark.numeric
def test_a_start_by_ridge_is_the_regressions_and_the_network_adds_to_it_as_far_as_it_is_trusted():
    generator = started()
    torch.nn.init.zeros_(generator.weigh.weight)
    embeddings, mask = torch.randn(4, 3, 64), torch.ones(4, 3, dtype=torch.bool)
    full = generator(embeddings, mask).b["lm_head"]
    generator.trust.fill_(0.0)
    start = generator(embeddings, mask).b["lm_head"]
    generator.trust.fill_(0.5)
    assert_near(generator(embeddings, mask).b["lm_head"], (full + start) / 2, **WIDTHS)
    head = next(h for h in generator.heads if "lm_head" in h.group.names)
    coordinates = (embeddings.mean(1) - generator.ridge_center) @ generator.ridge_map
    assert_near(start, head.mean_b[0] + torch.einsum("kq,qor->kor", coordinates, head.directions[:, 0]), length=64, depth=3)
    known = generator(embeddings, mask, folds=torch.tensor([0, 1, 2, 3])).b["lm_head"]
    assert not torch.allclose(known, full, atol=1e-3)


@pytest.mark.numeric
def test_words_weigh_alike_where_the_network_is_not_trusted():
    generator, embeddings = started(), torch.randn(2, 3, 64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    (weighed, _), generator.trust = generator.start(embeddings, mask, None), torch.zeros(())
    (alike, _) = generator.start(embeddings, mask, None)
    means = torch.stack([embeddings[0].mean(0), embeddings[1, :2].mean(0)])
    assert_near(alike, (means - generator.ridge_center) @ generator.ridge_map, length=64, depth=3)
    assert not torch.allclose(weighed, alike, atol=1e-3)


def test_reloaded_equals_saved(tmp_path, any_generator):
    generator = any_generator
    generator.save_pretrained(tmp_path)
    again = LoRAGenerator.from_pretrained(tmp_path, HashingEncoder(64))
    assert again.spec == generator.spec
    assert not again.training
    one, two = (g.generate(prompts=["p", "q"], description="d") for g in (generator, again))
    assert all(torch.equal(x, y) for x, y in zip(one.tensors(), two.tensors(), strict=True))


def test_it_is_lean_on_a_real_base():
    """Qwen2.5-0.5B's shapes, all linear modules, rank 16."""
    kinds = {
        "q": (896, 896),
        "k": (896, 128),
        "v": (896, 128),
        "o": (896, 896),
        "gate": (896, 4864),
        "up": (896, 4864),
        "down": (4864, 896),
    }
    shapes = {f"model.layers.{layer}.{kind}_proj": shape for layer in range(24) for kind, shape in kinds.items()}
    for size, slots in (("s", 1), ("s", 5), ("m", 1), ("l", 1)):
        with torch.device("meta"):
            spec = GeneratorSpec(shapes=shapes, rank=16, alpha=32, embedding_dim=384, size=size, slots=slots)
            numbers = sum(p.numel() for p in LoRAGenerator(spec).parameters())
        assert numbers < 16 * spec.emitted()


def test_conditions_are_collected_per_task():
    assert collect_conditions(None, "d") == [["d"]]
    assert collect_conditions(["p", "q"], "d") == [["d", "p", "q"]]
    assert collect_conditions([["p"], ["q", "r"]], None) == [["p"], ["q", "r"]]
    assert collect_conditions([["p"], ["q"]], ["d", "e"]) == [["d", "p"], ["e", "q"]]


def test_bad_conditions_are_named():
    generator = new_generator()
    for call, message in (
        ({}, "give prompts, a description, or both"),
        ({"prompts": "one"}, "not one string"),
        ({"prompts": [["a"]], "description": ["d", "e"]}, "2 descriptions but prompts for 1 tasks"),
        ({"prompts": [["a"], []]}, "task 2 of 2 has no prompt and no description"),
        ({"description": "  "}, "prompt 1 of 1 is empty"),
    ):
        with pytest.raises(InputError, match=message):
            generator.generate(**call)


def test_ten_thousand_prompts_in_any_script():
    factors = trained().generate(prompts=[f"подсказка {i} 提示" for i in range(10_000)])
    assert all(t.isfinite().all() for t in factors.tensors())


def test_a_mask_marks_padding():
    embeddings, mask = embed_conditions(HashingEncoder(64), [["a"], ["b", "c"]])
    assert embeddings.shape == (2, 2, 64)
    assert mask.tolist() == [[True, False], [True, True]]


def test_faulty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no generator there; give a run folder"):
        LoRAGenerator.from_pretrained(tmp_path)
    trained().save_pretrained(tmp_path)
    weights, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())

    def check(message: str, weights=weights, config=config) -> None:
        save_file(weights, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=message):
            LoRAGenerator.from_pretrained(tmp_path)

    check("generator format 99, this version reads 4", config={**config, "format": 99})
    check("key 'rank' is missing", config={k: v for k, v in config.items() if k != "rank"})
    check("size 'xl' is unknown; choose one of s, m, l", config={**config, "size": "xl"})
    check(r"the config asks for \(256, 32\)", config={**config, "embedding_dim": 32})
    check("front.project.bias is missing", weights={k: v for k, v in weights.items() if k != "front.project.bias"})
    check("extra is not part of this generator", weights={**weights, "extra": torch.zeros(1)})
    check("holds NaN or infinite values", weights={**weights, "front.project.bias": weights["front.project.bias"] * torch.nan})
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        LoRAGenerator.from_pretrained(tmp_path)


def test_an_encoder_of_other_content_is_refused():
    generator = LoRAGenerator(new_generator(encoder_id="hashing-0-64").spec)
    with pytest.raises(InputError, match="the generator was trained with hashing-0-64"):
        generator.generate(description="x")
