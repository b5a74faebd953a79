import itertools
import math

import numpy as np
import pytest
from scipy import stats

from llgbm.errors import InputError
from llgbm.evaluation.statistics import (
    bootstrap_interval,
    compare,
    gain_recovered,
    gain_recovered_interval,
    holm,
    mcnemar_test,
    replicates,
    sign_flip_test,
    standard_error,
)

DRAWN = np.random.default_rng(3).normal(0.4, 1.0, 25)


def test_standard_error_is_sd_over_root_n():
    assert standard_error([1.0, 2.0, 4.0]) == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))


def test_constant_data_have_no_error_even_where_their_variance_is_not_zero():
    assert standard_error([0.1] * 3) == 0.0
    assert bootstrap_interval([0.1] * 3) == (0.1, 0.1)
    assert compare([[0.1]] * 3, [[0.0]] * 3).p_value == 0.25


def test_one_value_has_no_standard_error():
    assert standard_error([0.5]) is None


def test_bootstrap_interval_is_near_the_t_interval_of_normal_data():
    low, high = bootstrap_interval(DRAWN)
    expected = stats.t.interval(0.95, len(DRAWN) - 1, DRAWN.mean(), stats.sem(DRAWN))
    assert (low, high) == pytest.approx(expected, abs=0.1)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [low <= 1.0 <= high for low, high in (bootstrap_interval(rng.exponential(size=40)) for _ in range(60))]
    assert 0.85 <= np.mean(covered) <= 1.0


def test_bootstrap_interval_of_nearly_constant_data_is_finite():
    assert np.isfinite(bootstrap_interval([1.0] * 30 + [0.0])).all()
    assert np.isfinite(bootstrap_interval([0.0, 1.0])).all()


def test_same_seed_gives_the_same_interval():
    assert bootstrap_interval(DRAWN, seed=1) == bootstrap_interval(DRAWN, seed=1) != bootstrap_interval(DRAWN, seed=2)


def test_bootstrap_needs_values():
    with pytest.raises(InputError, match="no values to bootstrap"):
        bootstrap_interval([])


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_sign_flip_test_equals_scipys_exact_permutation_test(alternative):
    differences = DRAWN[:9]
    expected = stats.permutation_test(
        (differences, np.zeros(9)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", alternative=alternative,
        vectorized=True, n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert sign_flip_test(differences, alternative) == pytest.approx(expected, rel=1e-9)


def test_random_flips_agree_with_the_normal_approximation():
    z = DRAWN.sum() / math.sqrt((DRAWN**2).sum())
    assert sign_flip_test(DRAWN, "greater") == pytest.approx(stats.norm.sf(z), abs=0.02)


def test_smallest_one_sided_p_of_three_seeds_is_an_eighth():
    assert sign_flip_test([0.3, 0.2, 0.1], "greater") == 0.125


def test_no_difference_is_no_evidence():
    assert sign_flip_test([0.0] * 20) == sign_flip_test([0.0] * 4, "greater") == mcnemar_test([True, False], [True, False]) == 1.0


def test_sign_flip_test_needs_differences():
    with pytest.raises(InputError, match="no paired differences"):
        sign_flip_test([])


def test_mcnemar_is_the_binomial_tail_of_the_discordant_pairs():
    one, other = [True] * 9 + [False] * 1 + [True] * 5, [False] * 9 + [True] * 1 + [True] * 5
    tail = sum(math.comb(10, k) for k in (9, 10)) / 2**10
    assert mcnemar_test(one, other, "greater") == pytest.approx(tail)
    assert mcnemar_test(one, other) == pytest.approx(2 * tail)


def test_mcnemar_needs_pairs():
    with pytest.raises(InputError, match="2 and 3 results are not paired"):
        mcnemar_test([True] * 2, [True] * 3)


def test_holm_on_a_published_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("p", list(itertools.permutations([0.001, 0.2, 0.04])))
def test_holm_keeps_order_and_never_lowers(p):
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert list(np.argsort(adjusted)) == list(np.argsort(p))


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


def test_gain_recovered_is_the_share_of_the_way_from_base_to_teacher():
    assert gain_recovered([0.6, 0.6], [0.1, 0.3], [1.0, 1.0]) == pytest.approx(0.5)
    assert gain_recovered([0.6], [0.5], [0.5]) is None


def test_gain_interval_holds_the_figure_and_is_a_point_for_teachers_themselves():
    teacher, base = np.ones(30), np.zeros(30)
    method = np.random.default_rng(0).uniform(0.5, 1.0, 30)
    interval = gain_recovered_interval(method, base, teacher)
    assert interval is not None
    assert interval[0] < method.mean() < interval[1]
    assert gain_recovered_interval(teacher, base, teacher) == (1.0, 1.0)


def test_gain_interval_is_undefined_without_a_sure_gain():
    assert gain_recovered_interval([1.0], [1.0], [1.0]) is None
    assert gain_recovered_interval([0.0, 0.5], [0.0, 0.9], [1.0, 0.8]) is None


def test_compare_weighs_tasks_equally_and_flips_tasks():
    one, other = [[1, 1, 1, 1], [1], [1, 0]], [[0, 0, 0, 0], [0], [1, 0]]
    result = compare(one, other, "greater")
    assert result.difference == pytest.approx(2 / 3)
    assert (result.p_value, result.n_units, result.test) == (0.25, 3, "sign-flip")
    assert result.low <= result.difference <= result.high


def test_compare_within_one_task_uses_its_examples():
    one, other = [[1] * 8 + [0] * 4], [[0] * 8 + [0] * 4]
    result = compare(one, other)
    assert (result.test, result.n_units, result.p_value) == ("mcnemar", 12, 2 / 2**8)
    assert compare([[0.5, 1.0]], [[0.0, 0.5]]).test == "sign-flip"


def test_compare_is_antisymmetric():
    one, other = DRAWN.reshape(5, 5), np.zeros((5, 5))
    forth, back = compare(list(one), list(other)), compare(list(other), list(one))
    assert forth.difference == -back.difference
    assert forth.p_value == back.p_value


def test_compare_needs_pairs():
    with pytest.raises(InputError, match="not scored on the same examples"):
        compare([[1, 0]], [[1]])


def test_replicates_is_students_interval():
    found = replicates([0.9, 0.95, 0.97])
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, found.mean, found.stderr))
    assert replicates([0.9]).low is None
    assert replicates([0.1] * 3).low == replicates([0.1] * 3).high == pytest.approx(0.1)


def test_replicates_need_values():
    with pytest.raises(InputError, match="no seeds to summarize"):
        replicates([])
