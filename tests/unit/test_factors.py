"""LoRA factors: algebra against dense float64 products, initialization against PEFT's, and laws of stacking and truncation."""

import math

import pytest
import torch
from tolerance import assert_near
from torch import Tensor

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors, combine, product_gram, product_inner, product_inner_by_module, product_norm, truncate

pytestmark = pytest.mark.numeric
SHAPES = {"first": (6, 5), "second": (4, 9)}
GRAMS = {"length": 12, "depth": 4}
"""Of an inner product: Grams of A and of B, over pairs of ranks (3 x 4 at most), over modules."""
PRODUCT = {"length": 6, "depth": 2}
"""Of weight changes that are float64 sums over the rank of rounded factors."""


def random_factors(n_adapters: int = 3, rank: int = 2, seed: int = 0, shapes: dict[str, tuple[int, int]] = SHAPES) -> LoRAFactors:
    generator = torch.Generator().manual_seed(seed)
    factors = LoRAFactors.initialize(shapes, rank, 3, n_adapters, generator)
    for b in factors.b.values():
        b.normal_(generator=generator)
    return factors


def mixed() -> LoRAFactors:
    """Three adapters: ranks 1, 3, 2; the second has no module `second`."""
    parts = [random_factors(1, 1, 1), random_factors(1, 3, 2, {"first": (6, 5)}), random_factors(1, 2, 3)]
    return LoRAFactors.stack(parts)


def dense(factors: LoRAFactors, name: str) -> Tensor:
    """Weight change [K, d_out, d_in] in float64."""
    return factors.scaling[name].double()[:, None, None] * factors.b[name].double() @ factors.a[name].double()


def test_shapes_and_ranks_of_a_mixed_stack() -> None:
    factors = mixed()
    assert factors.n_adapters == 3
    assert factors.module_names == ("first", "second")
    assert factors.shapes == SHAPES
    assert factors.ranks == {"first": (1, 3, 2), "second": (1, 0, 2)}
    assert factors.a["first"].shape == (3, 3, 6)
    assert factors.b["second"].shape == (3, 9, 2)
    assert factors.scaling["second"].tolist() == [3.0, 0.0, 1.5]
    assert len(factors.tensors()) == 4


def test_selecting_from_a_stack_gives_each_adapter_back() -> None:
    parts = [random_factors(1, 1, 1), random_factors(1, 3, 2), random_factors(1, 2, 3)]
    stacked = LoRAFactors.stack(parts)
    for index, part in enumerate(parts):
        assert stacked.select([index]).content_hash() == part.content_hash() == stacked.content_hash(index)
    swapped = stacked.select(torch.tensor([2, 0]))
    assert swapped.ranks["first"] == (2, 1)
    assert swapped.content_hash(0) == parts[2].content_hash()


def test_content_hash_sees_every_number_and_no_order() -> None:
    factors = random_factors(1)
    fields = (factors.a, factors.b, factors.scaling, factors.ranks)
    turned = LoRAFactors(*({name: whole[name] for name in reversed(whole)} for whole in fields))
    assert turned.content_hash() == factors.content_hash()
    for change in ("a", "b", "scaling"):
        other = LoRAFactors.stack([random_factors(1)])
        getattr(other, change)["second"].view(-1)[0] += 1e-6 if change != "scaling" else 0.5
        assert other.content_hash() != factors.content_hash()


def test_initial_a_is_pefts_and_b_is_zero() -> None:
    factors = LoRAFactors.initialize({"only": (6, 5)}, 4, 8, 1, torch.Generator().manual_seed(7))
    torch.manual_seed(7)
    expected = torch.nn.init.kaiming_uniform_(torch.empty(4, 6), a=math.sqrt(5))
    torch.testing.assert_close(factors.a["only"][0], expected)
    assert not factors.b["only"].any()
    assert factors.scaling["only"].tolist() == [2.0]


def test_zeros_are_zero() -> None:
    assert not any(tensor.any() for tensor in LoRAFactors.zeros(SHAPES, 2, 4, 3).tensors())


def test_moving_and_detaching() -> None:
    factors = random_factors().to(dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in factors.tensors()} == {torch.bfloat16}
    assert factors.scaling["first"].dtype == torch.float32
    factors.a["first"].requires_grad_()
    assert not factors.detach().a["first"].requires_grad


def test_inner_product_equals_the_dense_one() -> None:
    f, g = mixed(), random_factors(3, 4, 9)
    expected = {name: (dense(f, name) * dense(g, name)).sum((1, 2)) for name in SHAPES}
    for name, inner in product_inner_by_module(f, g).items():
        assert_near(inner, expected[name], scale=dense(f, name).norm(dim=(1, 2)) * dense(g, name).norm(dim=(1, 2)), **GRAMS)
    assert_near(product_inner(f, g), sum(expected.values()), scale=product_norm(f) * product_norm(g), **GRAMS)
    assert_near(product_norm(f), sum(dense(f, name).square().sum((1, 2)) for name in SHAPES).sqrt(), **GRAMS)


def test_inner_product_with_one_adapter_compares_it_with_all() -> None:
    f, one = random_factors(3), random_factors(1, 2, 5)
    repeated = LoRAFactors.stack([one] * 3)
    torch.testing.assert_close(product_inner(f, one), product_inner(f, repeated))


def test_inner_product_does_not_depend_on_the_gauge() -> None:
    f = random_factors(1)
    turn = torch.tensor([[2.0, 1.0], [0.5, -1.0]])
    turned = LoRAFactors(
        {n: torch.linalg.solve(turn, a) for n, a in f.a.items()}, {n: b @ turn for n, b in f.b.items()}, f.scaling, f.ranks
    )
    assert_near(product_inner(f, turned), product_inner(f, f), length=12, depth=8)  # the turn is solved for and multiplied


def test_combination_equals_the_dense_sum() -> None:
    factors, weights = mixed(), [0.5, -1.0, 2.0]
    combined = combine(factors, weights)
    assert combined.n_adapters == 1
    assert combined.ranks == {"first": (6,), "second": (3,)}
    for name in SHAPES:
        expected = (torch.tensor(weights, dtype=torch.float64)[:, None, None] * dense(factors, name)).sum(0)
        assert_near(dense(combined, name)[0], expected, **PRODUCT)


@pytest.mark.parametrize("rank", [1, 2, 4, 99])
def test_truncation_is_the_best_approximation(rank: int) -> None:
    factors = combine(random_factors(3), [1.0, 1.0, 1.0])
    small = truncate(factors, rank)
    for name in SHAPES:
        u, s, v = torch.linalg.svd(dense(factors, name)[0], full_matrices=False)
        expected = u[:, :rank] * s[:rank] @ v[:rank]
        assert_near(dense(small, name)[0], expected, **PRODUCT)
        assert small.ranks[name][0] <= min(rank, 6)
        assert small.a[name].shape[1] == small.b[name].shape[2] == max(small.ranks[name])


def test_truncation_keeps_adapters_apart_and_absent_modules_absent() -> None:
    factors = mixed()
    small = truncate(factors, 2)
    assert small.ranks == {"first": (1, 2, 2), "second": (1, 0, 2)}
    torch.testing.assert_close(dense(small, "second")[1], torch.zeros(9, 4, dtype=torch.float64))
    assert_near(dense(small, "first")[2], dense(factors, "first")[2], **PRODUCT)
    assert set(small.adapter(1)) == {"first"}


def test_gradients_pass_through_the_inner_product() -> None:
    factors = random_factors(1)
    factors.b["first"].requires_grad_()
    product_inner(factors, random_factors(1, 2, 4)).sum().backward()
    assert factors.b["first"].grad.any()


def test_faults_are_named() -> None:
    with pytest.raises(InputError, match="no adapters to stack"):
        LoRAFactors.stack([])
    with pytest.raises(InputError, match=r"adapter 1: first has \(d_in, d_out\) = \(7, 5\), the adapters before it \(6, 5\)"):
        LoRAFactors.stack([random_factors(), random_factors(shapes={"first": (7, 5)})])
    with pytest.raises(InputError, match=r"share no module \(first, second; third\)"):
        product_inner(random_factors(), random_factors(shapes={"third": (6, 5)}))
    with pytest.raises(InputError, match=r"\(2,\) weights for 3 adapters"):
        combine(random_factors(), [1.0, 2.0])
    with pytest.raises(InputError, match="rank is 0"):
        truncate(random_factors(), 0)


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_gram_holds_the_inner_product_of_every_pair(at_once: int) -> None:
    factors = mixed()
    gram = product_gram(factors, at_once)
    for i in range(3):
        torch.testing.assert_close(gram[i], product_inner(factors.select([i]), factors))
