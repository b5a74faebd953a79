"""Additivity, subtraction and interpolation on deltas whose truth is known, and composition that is exact."""

import numpy as np
import pytest
import torch
from tolerance import assert_near, rounding

from llgbm.compositionality import AdapterComposer, CompositionExperiment, Mixture
from llgbm.delta import DeltaCache
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors

SHAPES = {"layers.0.q_proj": (6, 5), "layers.0.up_proj": (6, 9)}


def made(noise: float = 0.05, mean: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str], list[Mixture]]:
    """Ten adapters of each of two domains, and five mixtures that are the sum or mean of two, plus noise."""
    rng = np.random.default_rng(0)
    deltas = {f"{domain}{i}": rng.normal(size=40) for domain in "ab" for i in range(10)}
    mixtures = [Mixture(f"m{i}", f"a{i}", f"b{i}") for i in range(5)]
    for m in mixtures:
        deltas[m.whole] = (deltas[m.one] + deltas[m.two]) * (0.5 if mean else 1) + noise * rng.normal(size=40)
    return deltas, {name: name[0] for name in deltas}, mixtures


def test_sums_are_found_additive_and_means_are_told_from_them() -> None:
    for mean, nearest in ((False, "sum"), (True, "mean")):
        deltas, groups, mixtures = made(mean=mean)
        found = CompositionExperiment(deltas, groups).test_additivity(mixtures)
        assert found["overall"]["nearest"][nearest] == 5
        assert found["overall"]["p_value"] < 0.001
        assert all(row["p_holm"] < 0.05 for row in found["rows"])
        assert found["overall"]["distance"][nearest] < 0.2


def test_chance_is_not_called_additive() -> None:
    deltas, groups, mixtures = made()
    rng = np.random.default_rng(3)
    deltas |= {m.whole: rng.normal(size=40) for m in mixtures}
    overall = CompositionExperiment(deltas, groups).test_additivity(mixtures)["overall"]
    assert overall["p_value"] > 0.05
    assert abs(overall["null_cosine"]) < 0.1


def test_subtraction_finds_the_other_part() -> None:
    deltas, groups, mixtures = made()
    found = CompositionExperiment(deltas, groups).test_subtraction(mixtures)
    assert len(found["rows"]) == 10
    assert found["overall"]["cosine"] > 0.99
    assert found["overall"]["p_value"] < 0.001


def test_interpolation_peaks_in_the_middle_above_its_null() -> None:
    deltas, groups, mixtures = made()
    found = CompositionExperiment(deltas, groups).test_interpolation(mixtures)
    cosines = found["overall"]["cosines"]
    assert len(cosines) == 11
    assert int(np.argmax(cosines)) == 5
    m = mixtures[0]
    expected = deltas[m.whole] @ deltas[m.one] / np.linalg.norm(deltas[m.whole]) / np.linalg.norm(deltas[m.one])
    assert found["rows"][0]["cosines"][0] == pytest.approx(expected)
    assert all(low < high < c for low, high, c in zip(found["null"]["low"], found["null"]["high"], cosines, strict=True))


def test_the_seed_decides_the_null_and_nothing_else() -> None:
    deltas, groups, mixtures = made(noise=2.0)
    one, again, other = (CompositionExperiment(deltas, groups, seed).test_additivity(mixtures) for seed in (0, 0, 1))
    assert one == again
    assert one["rows"][0]["cosine"] == other["rows"][0]["cosine"]
    assert one["rows"][0]["null_cosine"] != other["rows"][0]["null_cosine"]


def teachers(ranks: dict[str, int]) -> dict[str, LoRAFactors]:
    found = {}
    for i, (name, rank) in enumerate(ranks.items()):
        found[name] = LoRAFactors.initialize(SHAPES, rank, 2.0 * rank, 1, torch.Generator().manual_seed(i))
        for b in found[name].b.values():
            b.normal_(generator=torch.Generator().manual_seed(50 + i))
    return found


def dense(factors: LoRAFactors, name: str) -> torch.Tensor:
    return (factors.b[name].double() @ factors.a[name].double() * factors.scaling[name].double()[:, None, None])[0]


@pytest.mark.numeric
def test_a_delta_sum_is_the_exact_sum_of_weight_changes_whatever_the_ranks() -> None:
    parts = teachers({"x": 2, "y": 4})
    composer = AdapterComposer({"x": np.ones(3), "y": np.ones(3)}, SHAPES, parts)
    found = composer.compose_by_delta_sum(["x", "y"], [1.0, -0.5])
    for name in SHAPES:
        assert_near(dense(found.factors, name), dense(parts["x"], name) - 0.5 * dense(parts["y"], name), length=6, depth=2)


@pytest.mark.numeric
def test_a_target_made_of_two_deltas_is_found_again_with_its_weights() -> None:
    deltas, _, _ = made()
    singles = {name: delta for name, delta in deltas.items() if name[0] in "ab"}
    parts = teachers(dict.fromkeys(singles, 2))
    composer = AdapterComposer(singles, SHAPES, parts)
    found = composer.compose_by_delta_target(2 * singles["a3"] + 0.5 * singles["b7"], k=3)
    assert dict(zip(found.names, found.weights, strict=True)) == pytest.approx(
        {"a3": 2.0, "b7": 0.5}, rel=0, abs=rounding(2, length=40, depth=20, dtype=torch.double)
    )
    assert found.cosine == pytest.approx(1.0)
    for name in SHAPES:
        assert_near(dense(found.factors, name), 2 * dense(parts["a3"], name) + 0.5 * dense(parts["b7"], name), length=4, depth=2)
    assert composer.compose_by_delta_target(singles["a3"], k=1).names == ("a3",)


def test_faults_are_named(tmp_path) -> None:
    deltas, groups, mixtures = made()
    with pytest.raises(InputError, match="3 deltas are too few"):
        CompositionExperiment({name: deltas[name] for name in ("a0", "a1", "a2")})
    cache = DeltaCache(tmp_path / "cache")
    with pytest.raises(InputError, match="0 deltas are too few to compare compositions with chance; run 'llgbm compute-deltas' first"):
        CompositionExperiment(cache)
    experiment = CompositionExperiment(deltas, groups)
    with pytest.raises(InputError, match="no mixtures to test; build teachers of split mixture"):
        experiment.test_additivity([])
    with pytest.raises(InputError, match="the cache has no delta of a77"):
        experiment.test_subtraction([Mixture("m0", "a77", "b0")])
    lonely = {**groups, "a0": "c"}
    with pytest.raises(InputError, match="no other adapter of domain 'c' to compare a0 with"):
        CompositionExperiment(deltas, lonely).test_additivity(mixtures)
    composer = AdapterComposer(deltas, SHAPES, {})
    with pytest.raises(InputError, match=r"the target delta has shape \(3,\), the cache has \(40,\)"):
        composer.compose_by_delta_target(np.ones(3))
    with pytest.raises(InputError, match="no adapter's delta points towards the target"):
        composer.compose_by_delta_target(-deltas["a0"], candidates=["a0"])
