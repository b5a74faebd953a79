"""The study's tests against scipy and statsmodels, on constant data, and with too few seeds."""

import sys
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from llgbm.errors import InputError
from llgbm.study.statistics import adjusted, interval, of_seeds, of_units, ratio_interval, resampled, seeds_needed

pytest.importorskip("statsmodels", reason="pip install 'llgbm[study]'")
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

ALPHA = 0.05


def cells(seed: int, shape: tuple[int, int] = (3, 40), mean: float = 0.1) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(size=shape)


def test_over_units_of_one_task_it_is_scipys_paired_t_test() -> None:
    lora, full = cells(0), cells(1)
    found = of_units([lora - full], "example", 0.1, ALPHA)
    expected = stats.ttest_rel(lora.mean(0), full.mean(0), alternative="greater")
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.p_opposite == pytest.approx(1 - expected.pvalue)
    assert (found.n_units, found.unit) == (40, "example")


def test_over_two_tasks_it_is_welchs_test_of_one_against_the_other_turned_over() -> None:
    one, other = cells(0, (1, 30)), cells(1, (1, 8))
    found = of_units([one, other], "example", 0.1, ALPHA)
    assert found.p_value == pytest.approx(stats.ttest_ind(one[0], -other[0], equal_var=False, alternative="greater").pvalue)


def test_over_seeds_it_is_scipys_permutation_test() -> None:
    lora, full = cells(0, (7, 5), 0.5), cells(1, (7, 5))
    found = of_seeds([lora - full], 0.1, ALPHA)
    expected = stats.permutation_test(
        (lora.mean(1), full.mean(1)),
        lambda x, y, axis: (x - y).mean(axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert found.p_value == pytest.approx(expected.pvalue)


def test_seven_seeds_can_and_three_cannot_decide() -> None:
    clear = [cells(0, (7, 50), 5.0), cells(1, (7, 30), 5.0)]
    assert of_seeds(clear, 1.0, ALPHA).p_value == 2**-7
    few = of_seeds([cell[:3] for cell in clear], 1.0, ALPHA)
    assert (few.p_value, few.p_opposite, few.n_units) == (None, None, 3)
    assert (few.power, few.detectable) == (0, None)
    assert few.low > 0
    assert seeds_needed(ALPHA) == 5


@pytest.mark.parametrize("value", [0.03, 0.1, 0.0, -0.2])
def test_constant_data_give_their_value_and_no_spread(value: float) -> None:
    """np.var([0.1] * 3) is not 0."""
    same = np.full((3, 60), value)
    for found in (of_units([same], "example", 0.1, ALPHA), of_seeds([np.full((7, 60), value)], 0.1, ALPHA)):
        assert found.excess == pytest.approx(value)
        assert (found.low, found.high) == (pytest.approx(value), pytest.approx(value))
        assert (found.effect, found.power, found.detectable) == (None, None, None)
        assert found.p_value is not None
        assert (found.p_value <= ALPHA) == (value > 0)


def test_three_constant_units_are_too_few() -> None:
    assert of_units([np.full((3, 3), 0.1)], "example", 0.1, ALPHA).p_value is None


def test_one_unit_and_one_seed_decide_nothing() -> None:
    one = np.array([[0.5]])
    assert of_units([one], "example", 0.1, ALPHA).p_value is None
    assert of_seeds([one], 0.1, ALPHA).p_value is None


@pytest.mark.parametrize("n", [3, 7, 40, 500])
def test_power_effect_and_what_is_detectable_are_statsmodels(n: int) -> None:
    data = cells(3, (1, n), 0.3)
    found, spread = of_units([data], "example", 0.2, ALPHA), data[0].std(ddof=1)
    assert found.power == pytest.approx(TTestPower().power(0.2 / spread, n, ALPHA, alternative="larger"))
    assert found.effect == pytest.approx((1 - 3 / (4 * (n - 1) - 1)) * data.mean() / spread)
    assert found.detectable is not None
    assert TTestPower().power(found.detectable / spread, n, ALPHA, alternative="larger") == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("method", ["holm", "bonferroni"])
def test_adjusted_p_values_are_statsmodels_and_leave_out_what_was_not_tested(method: Literal["holm", "bonferroni"]) -> None:
    found = adjusted([0.01, None, 0.04, 0.0], method)
    assert found[1] is None
    assert [p for p in found if p is not None] == pytest.approx(multipletests([0.01, 0.04, 0.0], method=method)[1])
    assert adjusted([None, None], method) == [None, None]


def test_intervals_over_seeds_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    found = [interval([rng.normal(size=(7, 1)) + rng.normal(size=(7, 10))], seeds_too=True) for _ in range(100)]
    assert 90 <= sum(low <= 0 <= high for low, high in found) <= 100


def test_the_interval_over_units_is_scipys_bootstrap_and_student() -> None:
    data = cells(5, (1, 60), 0.3)
    low, high = interval([data], seeds_too=False)
    expected = stats.bootstrap((data[0],), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    width = data[0].std() / np.sqrt(60)
    assert low == pytest.approx(expected.low, abs=0.15 * width)
    assert high == pytest.approx(expected.high, abs=0.15 * width)


def test_seeds_widen_an_interval() -> None:
    data = np.random.default_rng(0).normal(size=(7, 1)) + cells(1, (7, 100))
    units, seeds = interval([data], seeds_too=False), interval([data], seeds_too=True)
    assert seeds[1] - seeds[0] > 2 * (units[1] - units[0])


def test_ratios_are_of_pairs_and_undefined_near_zero() -> None:
    below = cells(0, (7, 40), 3.0)
    low, high = ratio_interval([0.6 * below], [below], seeds_too=True) or (0, 0)
    assert (low, high) == (pytest.approx(0.6), pytest.approx(0.6))
    assert ratio_interval([below], [cells(1, (7, 40), 0.0)], seeds_too=True) is None


def test_tasks_weigh_the_same() -> None:
    assert resampled([np.full((2, 5), 1.0), np.full((2, 500), 3.0)], True).tolist() == pytest.approx([2.0] * 9999)


def test_nothing_to_test_and_unequal_seeds_are_refused() -> None:
    with pytest.raises(InputError, match="0 tasks with results"):
        of_units([], "example", 0.1, ALPHA)
    with pytest.raises(InputError, match="give seeds by units for at least one task"):
        of_seeds([np.zeros((3, 0))], 0.1, ALPHA)
    with pytest.raises(InputError, match="tasks have 3, 2 seeds; compare tasks over the same seeds"):
        of_seeds([np.zeros((3, 5)), np.zeros((2, 5))], 0.1, ALPHA)


def test_without_statsmodels_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.stats.power", None)
    with pytest.raises(InputError, match=r"the power of a test needs statsmodels, .* pip install 'llgbm\[study\]'"):
        of_units([cells(0)], "example", 0.1, ALPHA)
