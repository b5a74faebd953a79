import pytest
import torch
from sklearn.kernel_ridge import KernelRidge as Reference
from tolerance import assert_near

from llgbm.models.kernel_ridge import KERNELS, KernelRidge, folds, known_without

pytestmark = pytest.mark.numeric


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(size, generator=generator, dtype=torch.double) for size in ((20, 6), (20, 3), (4, 6)))


def test_a_linear_ridge_is_scikit_learns_on_centered_rows() -> None:
    rows, outputs, asked = data()
    centered = rows - rows.mean(0)
    alpha = 0.01 * len(rows) * float(centered.square().sum(1).mean())
    reference = Reference(alpha=alpha).fit(centered, outputs - outputs.mean(0))
    expected = outputs.mean(0) + torch.from_numpy(reference.predict(asked - rows.mean(0)))
    assert_near(KernelRidge(rows, outputs, "linear", 0.01)(asked), expected, length=20, depth=50, dtype=torch.double)


def test_a_quadratic_ridge_is_a_linear_one_on_all_products() -> None:
    rows, outputs, asked = data(1)

    def products(x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ni,nj->nij", x, x).flatten(1)

    expected = KernelRidge(products(rows), outputs, "linear", 0.1)(products(asked))
    assert_near(KernelRidge(rows, outputs, "quadratic", 0.1)(asked), expected, length=36, depth=200, dtype=torch.double)


def test_a_polynomial_ridge_knows_rows_and_their_products() -> None:
    rows, outputs, asked = data(3)

    def terms(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([2**0.5 * x, torch.einsum("ni,nj->nij", x, x).flatten(1)], 1)

    expected = KernelRidge(terms(rows), outputs, "linear", 0.1)(terms(asked))
    assert_near(KernelRidge(rows, outputs, "polynomial", 0.1)(asked), expected, length=42, depth=200, dtype=torch.double)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_centering_it_predicts_the_same(kernel: str) -> None:
    rows, outputs, asked = data(2)
    ridge = KernelRidge(rows, outputs, kernel, 0.1)
    weights, intercept = ridge.uncentered()
    found = intercept + ridge.kernel(asked @ rows.mT) @ weights
    assert_near(
        found,
        ridge(asked),
        scale=found.abs().max() + (ridge.kernel(asked @ rows.mT) @ weights.abs()).max(),
        length=20,
        depth=50,
        dtype=torch.double,
    )


@pytest.mark.parametrize("strength", [1e-9, 0.1, 1e9])
def test_a_weak_ridge_repeats_what_it_knows_and_a_strong_one_says_the_mean(strength: float) -> None:
    """Centered, twenty rows of the identity have nineteen eigenvalues 1 and a mean variance of 19/20."""
    _, outputs, _ = data()
    mean = outputs.mean(0)
    found = KernelRidge(torch.eye(20), outputs, "linear", strength)(torch.eye(20))
    assert_near(found, mean + (outputs - mean) / (1 + 19 * strength), length=20, depth=50, dtype=torch.double)


def test_rows_that_are_all_alike_give_the_mean() -> None:
    rows, outputs, _ = torch.ones(3, 2), data()[1][:3], None
    torch.testing.assert_close(KernelRidge(rows, outputs, "linear", 1e-3)(rows), outputs.mean(0).expand(3, 3))


@pytest.mark.parametrize(("count", "most"), [(12, 12), (40, 7), (2, 30)])
def test_folds_are_disjoint_and_hold_as_many_as_asked(count: int, most: int) -> None:
    drawn = [k for fold in folds(count, most) for k in fold]
    assert len(drawn) == len(set(drawn)) == min(count, most)
    assert all(folds(count, most))
    assert folds(count, most) == folds(count, most)


def test_no_row_of_a_task_held_out_is_known() -> None:
    owners = torch.tensor([0, 0, 1, 2, 2, 3])
    assert known_without(owners, [0, 2]).tolist() == [2, 5]
