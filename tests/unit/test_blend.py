import pytest
import torch
from tolerance import assert_near

from llgbm.lora import blend
from llgbm.lora.blend import Blender
from llgbm.lora.factors import LoRAFactors, combine, product_inner, truncate

SHAPES = {"layers.0.q": (24, 16), "layers.1.q": (24, 20)}


def pool_of(ranks: list[int], shapes: dict[str, tuple[int, int]], seed: int = 0) -> LoRAFactors:
    """Adapters of these ranks, each with its own A and B."""
    parts = []
    for k, rank in enumerate(ranks):
        generator = torch.Generator().manual_seed(seed + k)
        one = LoRAFactors.initialize(shapes, rank, 2.0 * rank + k, 1, generator)
        parts.append(one.map(lambda t, g=generator: torch.randn(t.shape, generator=g)))
    return LoRAFactors.stack(parts)


def dense(factors: LoRAFactors, name: str) -> torch.Tensor:
    return factors.scaling[name][:, None, None] * factors.b[name] @ factors.a[name]


def test_a_blend_is_the_weighted_sum_cut_to_the_rank() -> None:
    pool, weights = pool_of([1, 2, 3], SHAPES), torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.0]])
    found = Blender(pool).blend(weights, 3)
    for k, of_one in enumerate(weights):
        expected = truncate(combine(pool, of_one), 3)
        for name in SHAPES:
            assert found.ranks[name] == (3, 3)
            assert_near(dense(found, name)[k], dense(expected, name)[0], length=24, depth=200)


def test_a_blend_of_full_rank_is_exact_and_never_dense_where_the_pool_is_small() -> None:
    pool = pool_of([2, 3], {"wide": (400, 300)})
    blender = Blender(pool)
    assert blender.modules["wide"].basis_a.shape == (400, 6)  # two adapters of rank 3, with padding
    found = blender.blend(torch.tensor([[0.3, 0.7]]), 5)
    assert_near(dense(found, "wide")[0], dense(combine(pool, [0.3, 0.7]), "wide")[0], length=400, depth=20)


def test_modules_that_some_adapters_lack_count_as_zero() -> None:
    one, two = pool_of([2], SHAPES), pool_of([2], {"layers.0.q": (24, 16)}, seed=9)
    pool = LoRAFactors.stack([one, two])
    found = Blender(pool).blend(torch.tensor([[0.0, 1.0]]), 2)
    assert_near(dense(found, "layers.0.q")[0], dense(two, "layers.0.q")[0], length=24, depth=20)
    assert not dense(found, "layers.1.q").any()


def test_blends_do_not_depend_on_their_neighbors_or_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, weights = pool_of([2] * 7, SHAPES), torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    together = Blender(pool).blend(weights, 2)
    monkeypatch.setattr(blend, "CORE_NUMBERS", 600)
    apart = Blender(pool).blend(weights, 2)
    difference = LoRAFactors.stack([combine(LoRAFactors.stack([together.select([k]), apart.select([k])]), [1.0, -1.0]) for k in range(5)])
    assert_near(product_inner(difference, difference), torch.zeros(5), length=24, depth=50, scale=product_inner(together, together))


def test_the_generators_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of([2, 2], SHAPES)
    torch.manual_seed(1)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds devices it does not draw on"))
    before = torch.get_rng_state()
    Blender(pool).blend(torch.ones(1, 2), 2)
    assert torch.equal(before, torch.get_rng_state())
