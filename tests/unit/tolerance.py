"""How far two right answers may differ: the rounding of sums taken in another order, on any processor and number of threads.

A sum of n terms of size s in a type with spacing eps is off by about eps * s * sqrt(n) (errors of random sign), and d such sums in
a row by sqrt(d) as much. The measured differences of one processor's kernels are a tenth to a hundredth of that.
"""

import math
from typing import Any

import numpy as np
import torch

BLOCK_SUMS = 6
"""Sums in a row through one transformer block: projection, scores, mixing, output, up, down."""


def depth(blocks: int) -> int:
    """Sums in a row through a model of so many blocks, with its last norm and head."""
    return BLOCK_SUMS * blocks + 2


def rounding(scale: Any, *, length: int, depth: int, dtype: torch.dtype = torch.float32) -> float:
    """The absolute tolerance of a result.

    Args:
        scale: The largest of the numbers that are rounded: a number, or a tensor or array whose largest magnitude it is.
        length: Terms of the longest sum: the widest layer.
        depth: Sums in a row; see `depth`.
        dtype: The least precise type in which anything is rounded.
    """
    return torch.finfo(dtype).eps * float(_double(scale).abs().max()) * math.sqrt(length * depth)


def relative(*, length: int, depth: int, dtype: torch.dtype = torch.float32) -> float:
    """The tolerance of a result in units of its own size: where results of several sizes are compared at once."""
    return rounding(1, length=length, depth=depth, dtype=dtype)


def assert_near(found: Any, expected: Any, *, length: int, depth: int, scale: Any = None, dtype: torch.dtype = torch.float32) -> None:
    """Two results are equal but for `rounding`; `scale` where numbers larger than the result are rounded on the way to it."""
    found, expected = _double(found), _double(expected)
    bound = rounding(expected if scale is None else scale, length=length, depth=depth, dtype=dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def _double(x: Any) -> torch.Tensor:
    """float64 on the CPU, of a tensor, an array or numbers."""
    return x.detach().double().cpu() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, dtype=np.float64))
