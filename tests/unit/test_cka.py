"""Unbiased linear CKA against its formula written out in float64, and what it owes to geometry."""

import sys

import numpy as np
import pytest
import torch

from llgbm.errors import InputError
from llgbm.study.cka import layer_cka, probe_values

pytestmark = pytest.mark.numeric

pytest.importorskip("cka", reason="pip install 'llgbm[study]'")
NEAR = 1e-6
"""What is asked of agreement with the reference."""


def hsic_1(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, term by term."""
    n = len(k)
    k, m, ones = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
    whole = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones @ k @ m @ ones)
    return float(whole / (n * (n - 3)))


def reference(x: np.ndarray, y: np.ndarray) -> float:
    k, m = x @ x.T, y @ y.T
    return hsic_1(k, m) / np.sqrt(hsic_1(k, k) * hsic_1(m, m))


def states(seed: int, layers: int = 3, probes: int = 12, size: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(layers, probes, size)))


@pytest.mark.parametrize(("probes", "size"), [(4, 1), (5, 40), (12, 7), (64, 192), (200, 3)])
@pytest.mark.parametrize("moved", [0.0, 0.1, 10.0])
def test_cka_is_the_formula_in_float64(probes: int, size: int, moved: float) -> None:
    one = states(0, probes=probes, size=size).float()
    other = (one + moved * states(1, probes=probes, size=size)).float()
    expected = [reference(x, y) for x, y in zip(one.double().numpy(), other.double().numpy(), strict=True)]
    assert np.abs(layer_cka(one, other).numpy() - expected).max() < NEAR


@pytest.mark.parametrize(("spread", "dtype"), [(1e-2, torch.float32), (1e-4, torch.float32), (1e-4, torch.float64), (1e-6, torch.float64)])
def test_nearly_constant_states_keep_their_digits(spread: float, dtype: torch.dtype) -> None:
    """The formula itself loses them, so it is given the states without what they share, which changes CKA by nothing."""
    common = 3.0
    one, other = ((common + spread * added).to(dtype) for added in (states(0), states(0) + states(1)))
    pairs = zip(one.double().numpy(), other.double().numpy(), strict=True)
    expected = [reference(x - common, y - common) for x, y in pairs]
    assert np.abs(layer_cka(one, other).numpy() - expected).max() < NEAR


def test_rotation_scale_and_shift_change_nothing() -> None:
    one = states(0)
    turn = torch.linalg.qr(states(5, layers=1, probes=7, size=7)[0])[0]
    assert (layer_cka(one, 3 * one @ turn + 2) - 1).abs().max() < NEAR


def test_unrelated_states_are_near_zero_on_average_and_not_clamped() -> None:
    found = torch.cat([layer_cka(states(2 * i, layers=50), states(2 * i + 1, layers=50)) for i in range(20)])
    assert abs(float(found.mean())) < 0.02
    assert float(found.min()) < 0


def test_layers_that_tell_no_probes_apart_are_nan_and_others_are_not() -> None:
    one, other = states(0), states(1)
    one[1] = one[1, :1]
    other[2] = 1e-14 * other[2] + 0.1
    assert layer_cka(one, other).isnan().tolist() == [False, True, True]


def test_probes_at_equal_distances_are_nan() -> None:
    """Every Gram entry off the diagonal is the same: nothing tells one pair from another."""
    one = torch.eye(6)[None]
    assert bool(layer_cka(one, one).isnan().all())


@pytest.mark.parametrize("probes", [0, 1, 2, 3])
def test_too_few_probes_are_refused(probes: int) -> None:
    with pytest.raises(InputError, match=f"{probes} probes are too few for unbiased CKA, which needs 4 or more"):
        layer_cka(states(0, probes=probes), states(1, probes=probes))
    with pytest.raises(InputError, match="which needs 5 or more"):
        probe_values(states(0, probes=4), states(1, probes=4))


def test_other_shapes_and_broken_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 12, 7\) and \(2, 12, 7\); compare the same layers"):
        layer_cka(states(0), states(1, layers=2))
    broken = states(1)
    broken[2, 0, 0] = float("nan")
    with pytest.raises(InputError, match="states of layer 2 hold NaN or infinite numbers"):
        layer_cka(states(0), broken)


def test_a_probe_counts_by_what_leaving_it_out_changes() -> None:
    one, other = states(0), states(0) + states(1)
    found, without = probe_values(one, other), []
    for probe in range(12):
        keep = torch.arange(12) != probe
        without.append(layer_cka(one[:, keep], other[:, keep]))
    assert (found.mean(1) - layer_cka(one, other)).abs().max() < NEAR
    assert ((found[:, 3] - found[:, 8]) - 11 * (without[8] - without[3])).abs().max() < NEAR


def test_the_spread_over_probes_is_that_of_cka() -> None:
    """Standard error by the jackknife, against the spread over fresh probes."""
    fresh = [(states(i, layers=1, probes=60), states(1000 + i, layers=1, probes=60)) for i in range(100)]
    found = torch.cat([layer_cka(x, x + y) for x, y in fresh])
    expected = torch.stack([probe_values(x, x + y)[0].std() / 60**0.5 for x, y in fresh[:20]]).mean()
    assert 0.8 < float(expected / found.std()) < 1.25


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cka", None)
    with pytest.raises(InputError, match=r"pip install 'llgbm\[study\]'"):
        layer_cka(states(0), states(1))
