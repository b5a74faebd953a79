"""The ridge regression a generator may start from: it finds linear laws, knows nothing of a fold left out, and takes any teachers."""

import pytest
import torch
from tolerance import assert_near

from llgbm.lora.factors import LoRAFactors
from llgbm.models.ridge import FOLDS, fit_ridge

SHAPES = {"x": (6, 5), "y": (4, 7)}
RANK, T = 2, 12


@pytest.fixture
def world():
    """Texts of T tasks, and teachers whose B is a linear function of them."""
    g = torch.Generator().manual_seed(0)
    zoo = LoRAFactors.initialize(SHAPES, RANK, 4.0, T, g)
    wishes = torch.randn(T, 3, generator=g)
    for name in SHAPES:
        zoo.a[name][:] = zoo.a[name][:1]
        zoo.b[name][:] = 1 + torch.einsum("tw,wor->tor", wishes, torch.randn(3, *zoo.b[name].shape[1:], generator=g))
    texts = wishes[:, None] @ torch.randn(3, 20, generator=g) + 1e-3 * torch.randn(T, 2, 20, generator=g)
    return zoo, {name: zoo.a[name][0] for name in SHAPES}, texts


def predicted(fit, text: torch.Tensor, which: int = -1) -> dict[str, torch.Tensor]:
    coordinates = (text - fit.center) @ fit.maps[which]
    return {name: fit.mean[name] + torch.einsum("q,qor->or", coordinates, fit.directions[name]) for name in fit.mean}


def error(zoo: LoRAFactors, fit, texts: torch.Tensor, k: int, which: int = -1) -> float:
    found = predicted(fit, texts[k].mean(0), which)
    return max(float((found[name] - zoo.b[name][k]).norm() / zoo.b[name][k].norm()) for name in SHAPES)


def test_it_finds_a_linear_law_also_for_tasks_it_never_saw(world):
    zoo, constant, texts = world
    fit = fit_ridge(zoo, constant, 2.0, list(texts), [k % FOLDS for k in range(T)], 3, 0.01)
    assert max(error(zoo, fit, texts, k) for k in range(T)) < 0.05
    assert max(error(zoo, fit, texts, k, k % FOLDS) for k in range(T)) < 0.1


def test_the_regression_of_a_fold_does_not_know_the_folds_texts(world):
    zoo, constant, texts = world
    folds = [k % FOLDS for k in range(T)]
    fit = fit_ridge(zoo, constant, 2.0, list(texts), folds, 3, 0.01)
    swapped = texts.clone()
    swapped[[0, 8]] = texts[[8, 0]]  # both of fold 0; the mean of all texts stays
    again = fit_ridge(zoo, constant, 2.0, list(swapped), folds, 3, 0.01)
    assert_near(again.maps[0], fit.maps[0], length=2 * T, depth=2)
    assert (again.maps[-1] - fit.maps[-1]).abs().max() > 0.01 * fit.maps[-1].abs().max()


def test_b_is_the_best_for_the_constant_a_whatever_the_teachers_own(world):
    zoo, constant, texts = world
    turn = torch.tensor([[0.5, 2.0], [-1.0, 1.0]])
    for name in SHAPES:
        zoo.a[name], zoo.b[name] = turn @ zoo.a[name], zoo.b[name] @ turn.inverse()
    zoo.scaling = {name: scaling / 4 for name, scaling in zoo.scaling.items()}
    fit = fit_ridge(zoo, constant, 2.0, list(texts), [k % FOLDS for k in range(T)], 3, 0.01)
    found = predicted(fit, texts[3].mean(0))
    for name in SHAPES:
        product, theirs = found[name] @ constant[name] * 2.0, zoo.b[name][3] @ zoo.a[name][3] * zoo.scaling[name][3]
        assert (product - theirs).norm() < 0.05 * theirs.norm()


def test_a_module_that_some_teachers_lack_counts_as_zero_there(world):
    zoo, constant, texts = world
    without = LoRAFactors({"x": zoo.a["x"]}, {"x": zoo.b["x"]}, {"x": zoo.scaling["x"]}, {"x": zoo.ranks["x"]})
    both = LoRAFactors.stack([zoo, without])
    fit = fit_ridge(both, constant, 2.0, [*texts, *texts], [k % FOLDS for k in range(2 * T)], 3, 0.01)
    assert_near(fit.mean["y"], zoo.b["y"].mean(0) / 2, length=2 * T, depth=2)


def test_a_single_fold_leaves_nothing_to_know(world):
    zoo, constant, texts = world
    fit = fit_ridge(zoo, constant, 2.0, list(texts), [0] * T, 3, 0.01)
    assert not fit.maps[0].any()
    assert fit.maps[1].equal(fit.maps[-1])


def test_a_stronger_shrinkage_says_less(world):
    zoo, constant, texts = world
    sizes = [fit_ridge(zoo, constant, 2.0, list(texts), [0] * T, 3, shrinkage).maps[-1].norm() for shrinkage in (0.01, 1.0, 100.0)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_directions_are_orthonormal_as_weight_changes(world):
    zoo, constant, texts = world
    fit = fit_ridge(zoo, constant, 2.0, list(texts), [0] * T, 3, 0.01)
    gram = torch.zeros(3, 3, dtype=torch.double)
    for name, a in constant.items():
        sizes = (zoo.b[name] @ a).double().square().sum((1, 2)).mean()
        changes = (fit.directions[name].double() @ a.double()).flatten(1)
        gram += changes @ changes.mT / sizes
    assert_near(gram, torch.eye(3, dtype=torch.double), length=T, depth=4)
