"""Distance of products: equal to the dense float64 formula, in value and gradient, whatever the ranks, scalings and layout."""

import pytest
import torch
from tolerance import assert_near

from llgbm.lora.distance import product_distance_by_module
from llgbm.lora.factors import LoRAFactors

pytestmark = pytest.mark.numeric
SHAPES = {"first": (6, 5), "second": (4, 9)}


def random_factors(seed: int, rank: int, alpha: float, shapes: dict[str, tuple[int, int]] = SHAPES) -> LoRAFactors:
    rng = torch.Generator().manual_seed(seed)
    factors = LoRAFactors.initialize(shapes, rank, alpha, 3, rng)
    factors.b = {name: torch.randn(b.shape, generator=rng) for name, b in factors.b.items()}
    factors.scaling = {name: scaling * torch.tensor([1.0, 0.5, 3.0]) for name, scaling in factors.scaling.items()}
    return factors


def dense(factors: LoRAFactors, name: str) -> torch.Tensor:
    return (factors.b[name].double() @ factors.a[name].double()) * factors.scaling[name].double()[:, None, None]


@pytest.mark.parametrize(("rank", "other"), [(2, 2), (3, 1), (1, 4)])
def test_value_and_gradient_equal_the_dense_ones(rank: int, other: int) -> None:
    f, g = random_factors(1, rank, 4.0), random_factors(2, other, 2.0)
    f.b = {name: b.mT.contiguous().mT for name, b in f.b.items()}  # as a generator writes it
    for tensor in f.tensors():
        tensor.requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5])
    found = product_distance_by_module(f, g)
    torch.stack([(weights * distance).sum() for distance, _ in found.values()]).sum().backward()
    gradients = [tensor.grad for tensor in f.tensors()]
    double = f.map(lambda tensor: tensor.detach().double().requires_grad_())
    for name, (distance, norm) in found.items():
        ours, theirs = dense(double, name), dense(g, name)
        expected, largest = (ours - theirs).square().sum((1, 2)), (ours.norm(dim=(1, 2)) + theirs.norm(dim=(1, 2))).square()
        (weights * expected).sum().backward()
        assert_near(distance, expected, scale=largest, length=12, depth=4)  # Grams of A and B, over pairs of ranks, their difference
        assert_near(norm, theirs.square().sum((1, 2)), length=16, depth=3)
        assert not norm.requires_grad
    for gradient, tensor in zip(gradients, double.tensors(), strict=True):
        assert gradient is not None
        assert_near(gradient, tensor.grad, length=9, depth=3)


def test_autocast_does_not_change_it() -> None:
    f, g = random_factors(1, 2, 4.0), random_factors(2, 2, 4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = product_distance_by_module(f, g)
    for name, (distance, _) in product_distance_by_module(f, g).items():
        assert torch.equal(inside[name][0], distance)


def test_only_modules_of_both_are_compared() -> None:
    assert list(product_distance_by_module(random_factors(1, 2, 4.0), random_factors(2, 2, 4.0, {"second": (4, 9)}))) == ["second"]
    assert product_distance_by_module(random_factors(1, 2, 4.0), random_factors(2, 2, 4.0, {"third": (4, 9)})) == {}
