"""The A that written adapters have in common: the teachers' own where they share it, their leading directions where they do not."""

import pytest
import torch
from tolerance import assert_near

from llgbm.lora.factors import LoRAFactors
from llgbm.models.common import TeacherSums

pytestmark = pytest.mark.numeric
D_IN, D_OUT, RANK = 12, 9, 2


def sums(factors: LoRAFactors) -> TeacherSums:
    found = TeacherSums(RANK, D_IN, 2.0)
    for k in range(0, factors.n_adapters, 3):
        found.add(factors.select(range(k, min(k + 3, factors.n_adapters))), "x")
    return found


def zoo(count: int = 10) -> LoRAFactors:
    factors = LoRAFactors.initialize({"x": (D_IN, D_OUT)}, RANK, 4.0, count, torch.Generator().manual_seed(0))
    factors.b["x"].normal_(generator=torch.Generator().manual_seed(1))
    return factors


def test_teachers_started_from_one_a_have_its_mean_in_common():
    factors = zoo()
    factors.a["x"][:] = factors.a["x"][:1] + 0.01 * factors.a["x"]
    assert_near(sums(factors).common_a(), factors.a["x"].mean(0), length=10, depth=2)


def test_teachers_of_other_gauge_have_their_directions_in_common():
    """Every weight change lies in two input directions, but each A mixes them in another way."""
    factors, plane = zoo(), torch.linalg.qr(torch.randn(D_IN, RANK, generator=torch.Generator().manual_seed(2)))[0].mT
    mixing = torch.randn(10, RANK, RANK, generator=torch.Generator().manual_seed(3))
    factors.a["x"] = mixing @ plane
    found = sums(factors)
    common = found.common_a().float()
    assert_near(common @ plane.mT @ plane, common, length=D_IN, depth=20)
    assert_near(common.square().mean(), found.mean_square_a, length=RANK * D_IN, depth=2)
    assert found.mean_square_a < 1e9


def test_directions_are_those_of_the_largest_changes():
    factors = zoo(60)
    axes = torch.eye(D_IN)
    for k in range(60):
        factors.a["x"][k] = axes[[k % D_IN, (k + 1) % D_IN]] * (1 if k % D_IN in (4, 5) else 0.1) * (-1) ** k
    common = sums(factors).common_a()
    weight = common.square().sum(0) / common.square().sum()
    assert float(weight[4:7].sum()) > 0.95


def test_zero_teachers_keep_their_mean():
    factors = LoRAFactors.initialize({"x": (D_IN, D_OUT)}, RANK, 4.0, 6, torch.Generator().manual_seed(0))
    assert_near(sums(factors).common_a(), factors.a["x"].mean(0), length=6, depth=2)
