import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS

from llgbm.errors import InputError
from llgbm.evaluation.clusters import Grouping, intraclass_correlation
from llgbm.evaluation.statistics import (
    add_holm,
    bootstrap_interval,
    compare,
    gain_recovered,
    gain_recovered_interval,
    holm,
    mcnemar_test,
    p_text,
    paired_by,
    paired_by_all,
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
    assert compare([[0.1]] * 6, [[0.0]] * 6).p_value == 2 / 2**6


def test_one_value_has_no_standard_error():
    assert standard_error([0.5]) is None


def test_bootstrap_interval_is_near_the_t_interval_of_normal_data():
    low, high = bootstrap_interval(DRAWN)
    expected = stats.t.interval(0.95, len(DRAWN) - 1, DRAWN.mean(), stats.sem(DRAWN))
    assert (low, high) == pytest.approx(expected, abs=0.1)  # one by resampling, one by formula


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
    assert sign_flip_test(differences, alternative) == pytest.approx(expected, rel=1e-9)  # shares of the same 512 signs


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


def test_gain_interval_of_one_task_is_its_figure():
    assert gain_recovered_interval([0.5], [0.0], [1.0]) == (0.5, 0.5)


def test_gain_interval_is_undefined_without_a_sure_gain():
    assert gain_recovered_interval([1.0], [1.0], [1.0]) is None
    assert gain_recovered_interval([0.0, 0.5], [0.0, 0.9], [1.0, 0.8]) is None


def test_compare_weighs_tasks_equally_and_flips_tasks():
    one, other = [[1, 1, 1, 1], [1], [1, 0], *[[1]] * 3], [[0, 0, 0, 0], [0], [1, 0], *[[0]] * 3]
    result = compare(one, other, "greater")
    assert result.difference == pytest.approx(5 / 6)
    assert (result.p_value, result.n_units, result.unit, result.test) == (2 / 2**6, 6, "task", "sign-flip")
    assert result.low <= result.difference <= result.high


def test_compare_within_one_task_uses_its_examples():
    one, other = [[1] * 8 + [0] * 4], [[0] * 8 + [0] * 4]
    result = compare(one, other)
    assert (result.test, result.n_units, result.unit, result.p_value) == ("mcnemar", 12, "example", 2 / 2**8)
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


LEVELS = [str(i // 5) for i in range(60)]
"""Twelve levels of five tasks each."""


def of_tasks(differences: np.ndarray, **clusters):
    """A comparison of tasks with one example each that differ by so much."""
    return compare([[x] for x in differences], [[0.0]] * len(differences), clusters=clusters)


def drawn_by_level(rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    return rng.normal(size=60) + spread * rng.normal(size=12).repeat(5)


def test_clustered_intervals_cover_the_truth_and_plain_ones_do_not():
    rng, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(80):
        values = drawn_by_level(rng)
        for i, clusters in enumerate(({"operation": LEVELS}, {})):
            low, high = bootstrap_interval(values, clusters=clusters)
            hits[i] += low <= 0 <= high
    clustered, plain = hits / 80
    assert 0.88 <= clustered <= 1.0
    assert plain < 0.8


def test_intervals_of_crossed_attributes_cover_the_truth_and_those_of_one_do_not():
    rng, hits = np.random.default_rng(0), np.zeros(2)
    rows, columns = np.divmod(np.arange(80), 8)
    both = {"operation": [f"o{i}" for i in rows], "style": [f"s{i}" for i in columns]}
    for _ in range(150):
        values = rng.normal(size=10)[rows] + rng.normal(size=8)[columns] + 0.5 * rng.normal(size=80)
        for i, clusters in enumerate((both, {})):
            low, high = bootstrap_interval(values, clusters=clusters)
            hits[i] += low <= 0 <= high
    crossed, plain = hits / 150
    assert 0.9 <= crossed <= 1.0
    assert plain < 0.6


def test_clustered_flips_reject_as_often_as_they_say_and_plain_ones_far_too_often():
    rng, rejected = np.random.default_rng(0), np.zeros(2)
    for _ in range(150):
        values = drawn_by_level(rng)
        rejected += [of_tasks(values, operation=LEVELS).p_value <= 0.05, of_tasks(values).p_value <= 0.05]
    clustered, plain = rejected / 150
    assert clustered <= 0.1
    assert plain > 0.2


def test_flipping_levels_is_flipping_their_sums():
    values = DRAWN[:24]
    found = of_tasks(values, operation=[str(i // 3) for i in range(24)])
    expected = sign_flip_test(values.reshape(8, 3).sum(1))
    assert found.p_value == found.clusters["operation"].p_value == expected
    assert found.clusters["operation"].levels == 8


def test_of_several_attributes_the_largest_p_value_counts_and_those_with_few_levels_are_held_fixed():
    values = np.abs(DRAWN[:24])
    values[:12] *= -0.2
    found = of_tasks(values, a=[str(i // 3) for i in range(24)], b=[str(i % 6) for i in range(24)], c=[str(i % 3) for i in range(24)])
    p = {name: one.p_value for name, one in found.clusters.items()}
    assert p["c"] is None
    assert found.p_value == max(p["a"], p["b"]) > min(p["a"], p["b"])
    assert paired_by(asdict(found)) == "24 tasks, clustered by a (8), b (6); c (3) held fixed"


def test_too_few_clusters_have_no_p_value():
    found = of_tasks(np.abs(DRAWN), operation=[str(i % 5) for i in range(25)])
    assert found.p_value is None
    assert p_text(found.p_value) == "too few to tell"
    assert paired_by(asdict(found)) == "25 tasks, clustered by operation (5)"
    assert of_tasks(np.abs(DRAWN[:5])).p_value is None
    assert of_tasks(np.abs(DRAWN[:6])).p_value == 2 / 2**6


def test_an_attribute_that_groups_nothing_or_everything_or_like_another_changes_nothing():
    values, own, all_one = DRAWN[:24], [str(i) for i in range(24)], ["x"] * 24
    assert of_tasks(values, own=own, all_one=all_one) == of_tasks(values)
    pairs = [str(i // 2) for i in range(24)]
    assert of_tasks(values, a=pairs, b=[f"also {level}" for level in pairs]) == of_tasks(values, a=pairs)


def test_tasks_without_an_attribute_are_their_own_cluster():
    values = DRAWN[:24]
    some = ["x", "x", *[None] * 22]
    assert of_tasks(values, a=some).clusters["a"].levels == 23


def test_levels_must_fit_the_tasks():
    with pytest.raises(InputError, match="attribute a has 3 levels for 25 units"):
        of_tasks(DRAWN, a=["x"] * 3)


def test_constant_differences_by_cluster_have_a_point_for_an_interval():
    found = of_tasks(np.full(24, 0.1), a=[str(i // 3) for i in range(24)], b=[str(i % 8) for i in range(24)])
    assert (found.low, found.high) == (0.1, 0.1)
    assert found.clusters["a"].icc == 0
    level_only = np.arange(8).repeat(3) / 8
    assert np.isfinite(bootstrap_interval(level_only, clusters={"a": [str(i // 3) for i in range(24)]})).all()


def test_intraclass_correlation_is_that_of_the_analysis_of_variance():
    sizes, rng = [3, 4, 5, 6], np.random.default_rng(0)
    codes = np.repeat(range(4), sizes)
    values = rng.normal(size=18) + np.array([0.0, 1.0, 2.0, 0.5])[codes]
    f = stats.f_oneway(*(values[codes == g] for g in range(4))).statistic
    size = (18 - sum(n * n for n in sizes) / 18) / 3
    assert intraclass_correlation(values, Grouping("a", tuple(codes.tolist()))) == pytest.approx((f - 1) / (f - 1 + size))
    assert intraclass_correlation(codes.astype(float), Grouping("a", tuple(codes.tolist()))) == pytest.approx(1.0)


def test_clustered_standard_error_and_interval_agree_with_statsmodels():
    values = drawn_by_level(np.random.default_rng(1))
    fit = OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": np.array(LEVELS).astype(int)}, use_t=True)
    assert standard_error(values, {"operation": LEVELS}) == pytest.approx(fit.bse[0], rel=0.1)
    assert standard_error(values) < 0.8 * fit.bse[0]
    low, high = bootstrap_interval(values, clusters={"operation": LEVELS})
    assert (low, high) == pytest.approx(tuple(fit.conf_int()[0]), abs=0.15)


def test_gain_interval_of_clusters_is_wider():
    rng = np.random.default_rng(0)
    method = np.clip(0.5 + 0.2 * drawn_by_level(rng), 0, 1)
    base, teacher = np.zeros(60), np.ones(60)
    plain = gain_recovered_interval(method, base, teacher)
    clustered = gain_recovered_interval(method, base, teacher, clusters={"operation": LEVELS})
    assert clustered[1] - clustered[0] > 1.2 * (plain[1] - plain[0])


def test_holm_counts_only_what_has_a_p_value():
    rows = [{"p_value": 0.01}, {"p_value": None}, {"p_value": 0.04}]
    add_holm(rows)
    assert [row["p_holm"] for row in rows] == [0.02, None, 0.04]


def test_what_an_interval_speaks_of_is_said_for_examples_too():
    one = asdict(compare([[1, 0, 1]], [[0, 0, 0]]))
    assert paired_by(one) == paired_by_all([one, one]) == "the 3 examples of one task"
