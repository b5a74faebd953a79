"""What rounds to zero has no sign; everything else is Python's own rounding."""

import pytest

from llgbm.percent import percent


@pytest.mark.parametrize(
    ("share", "digits", "sign", "text"),
    [
        (0.123, 0, False, "12%"),
        (1.0, 1, False, "100.0%"),
        (-0.004, 0, False, "0%"),
        (-0.004, 1, False, "-0.4%"),
        (-0.0, 0, False, "0%"),
        (-0.0004, 1, True, "0.0%"),
        (0.0, 1, True, "0.0%"),
        (0.25, 1, True, "+25.0%"),
        (-1.5, 0, True, "-150%"),
    ],
)
def test_percent(share: float, digits: int, sign: bool, text: str) -> None:
    assert percent(share, digits, sign) == text
