"""What an answer is worth beside the expected one."""

import pytest

from llgbm.metrics import METRICS, TITLES, last_number, numeric, token_f1


@pytest.mark.parametrize(
    ("said", "expected", "f1"),
    [
        ("The quick fox!", "a quick fox", 1.0),
        ("quick", "quick brown fox", 0.5),
        ("fox fox", "fox", 2 / 3),
        ("", "fox", 0.0),
        ("the", "", 1.0),
        ("dog", "fox", 0.0),
    ],
)
def test_token_f1(said: str, expected: str, f1: float) -> None:
    assert token_f1(said, expected) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("said", "expected", "right"),
    [
        ("7", "7", 1),
        ("So it is 7.", "7.0", 1),
        ("1,234 apples", "1234", 1),
        ("-3", "3", 0),
        ("7, then 8", "8", 1),
        ("7, then 8", "7", 0),
        (".5", "0.50", 1),
        ("seven", "7", 0),
        ("12", "1,2", 0),
    ],
)
def test_numeric(said: str, expected: str, right: int) -> None:
    assert numeric(said, expected) == right


def test_there_may_be_no_number() -> None:
    assert last_number("none") is None
    assert last_number("\u0663") is None


def test_every_metric_has_a_title() -> None:
    assert METRICS.keys() == TITLES.keys()
