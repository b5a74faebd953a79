"""Unbiased linear CKA of hidden states, layer by layer, and what each probe adds to it.

Shapes: L layers, P probes, D hidden size.
"""

import importlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.errors import InputError

FEWEST_PROBES = 4
"""Fewer have no unbiased HSIC: its denominator is P (P - 3)."""
CONSTANT = 1e-12
"""Probes whose states differ by less than this share of their size are taken as all alike: what is left is float64's rounding."""


def layer_cka(one: Float[Tensor, "L P D"], other: Float[Tensor, "_ _ _"]) -> Float[Tensor, " L"]:
    """Likeness of two sets of states of the same probes, each layer with the same layer.

    States are centered and scaled before they are multiplied, which changes nothing but rounding, so states whose probes are nearly
    alike keep their digits.

    Returns:
        float64; 1 where one is a rotation of the other, 0 on average where they have nothing in common (a little below is possible),
        NaN at a layer where either tells no two probes apart.

    Raises:
        InputError: The shapes differ, there are fewer than 4 probes, a number is not finite, or pytorch-cka is missing.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414, with HSIC_1 of Song et al. 2012 (JMLR 13, 1393-1434) by pytorch-cka; not clamped at 0.
    """
    _check(one, other)
    return _ratio(_gram(one), _gram(other))


def probe_values(one: Float[Tensor, "L P D"], other: Float[Tensor, "L P D"]) -> Float[Tensor, "L P"]:
    """What each probe brings to CKA, so that probes can be resampled: pseudo-values of the jackknife, moved so that their mean is CKA.

    Resampling probes themselves would not do: a probe drawn twice is its own twin, which raises every HSIC.

    Raises:
        InputError: As `layer_cka`, and for fewer than 5 probes, since each is left out once.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.
    """
    _check(one, other, FEWEST_PROBES + 1)
    grams, n = (_gram(one), _gram(other)), one.shape[1]
    whole = _ratio(*grams)
    kept = [torch.arange(n) != left_out for left_out in range(n)]
    without = torch.stack([_ratio(*(gram[:, keep][:, :, keep] for gram in grams)) for keep in kept], dim=1)
    return whole[:, None] - (n - 1) * (without - without.mean(1, keepdim=True))


def _check(one: Tensor, other: Tensor, fewest: int = FEWEST_PROBES) -> None:
    if one.shape != other.shape or one.ndim != 3:
        raise InputError(f"states have shapes {tuple(one.shape)} and {tuple(other.shape)}; compare the same layers, probes and hidden size")
    if one.shape[1] < fewest:
        raise InputError(f"{one.shape[1]} probes are too few for unbiased CKA, which needs {fewest} or more; give more probes")
    for states in (one, other):
        if not bool(torch.isfinite(states).all()):
            layer = int((~torch.isfinite(states)).flatten(1).any(1).nonzero()[0])
            raise InputError(f"states of layer {layer} hold NaN or infinite numbers; the run diverged, train it again")


def _gram(states: Float[Tensor, "L P D"]) -> Float[Tensor, "L P P"]:
    """Inner products of centered states of unit size; NaN where all probes are alike."""
    states = states.double()
    centered = states - states.mean(1, keepdim=True)
    size = torch.linalg.matrix_norm(centered)
    alike = size <= CONSTANT * torch.linalg.matrix_norm(states)
    scaled = centered / torch.where(alike, torch.nan, size)[:, None, None]
    return scaled @ scaled.mT


def _ratio(one: Float[Tensor, "L P P"], other: Float[Tensor, "L P P"]) -> Float[Tensor, " L"]:
    """HSIC over the geometric mean of both with themselves."""
    crossed, of_one, of_other = _library().hsic(one, other)
    floor = CONSTANT / one.shape[1] ** 2  # of Grams of unit size, whose HSIC is some 1 / P^2
    told_apart = (of_one > floor) & (of_other > floor)
    return torch.where(told_apart, crossed.diagonal() / (of_one * of_other).clamp_min(floor**2).sqrt(), torch.nan)


def _library() -> Any:
    try:
        return importlib.import_module("cka")
    except ModuleNotFoundError as error:
        raise InputError("drift is measured by pytorch-cka, which is not installed; pip install 'llgbm[study]'") from error
