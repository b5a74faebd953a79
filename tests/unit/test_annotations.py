"""While tests run, arguments other than a function says are refused."""

import pytest
import torch
from annotations import check
from jaxtyping import TypeCheckError

from llgbm.dataset import at_tokens
from llgbm.delta.behavior import top_predictions


def test_shapes_and_types_are_checked():
    with pytest.raises(TypeCheckError):
        at_tokens(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(TypeCheckError):
        top_predictions(torch.zeros(3, 4), "three")  # type: ignore[arg-type]
    assert at_tokens(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)).shape == (6, 4)


def test_an_integer_is_a_number_and_a_text_is_none():
    def half(number: float) -> float:
        return number / 2

    assert check(half)(3) == 1.5
    with pytest.raises(Exception, match="violates type hint"):
        check(half)("3")  # type: ignore[arg-type]
