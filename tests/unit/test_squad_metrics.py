"""Exact match and F1 against SQuAD's rules, written out another way: character by character, word by word."""

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llgbm.study.squad_metrics import normalize_answer, score_answer, squad_metrics

TRICKY = [
    "the Beatles", "The  Beatles!", "beatles", "a.", "A", "an", "the", "(the)", "The The", "the-the", "theatre", "an apple a day",
    "U.S.", "US", "U.S.A", "10,000", "10000", "$5", "5 dollars", "don't", "dont", "", " ", "...", "—", "don\u2019t", "na\u00efve", "naive",
    "Tower of the Hague", "tower   of\thague", "a\nb", "b", "x a", "xa", "a_b", "the_end", "1 a 1", "THE",
    "\u00c9cole", "\u00e9cole", "An \u00c9cole",
    "Stra\u00dfe", "strasse", "a\u0301", "\u00e1", "cat cat dog", "cat dog dog", "cat", "dog cat",
]  # fmt: skip


def _is_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LN"


def _reference_words(text: str) -> list[str]:
    """Without regular expressions: drop ASCII punctuation, then cut at every place between a word's character and another."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    runs: list[str] = []
    for character in kept:
        if runs and _is_word(runs[-1][-1]) == _is_word(character):
            runs[-1] += character
        else:
            runs.append(character)
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def _reference_f1(predicted: list[str], expected: list[str]) -> float:
    left, shared = list(expected), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            shared += 1
    if not predicted or not expected:
        return float(predicted == expected)
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall) if shared else 0.0


@pytest.mark.parametrize("prediction", TRICKY)
def test_scores_are_the_reference_s(prediction: str) -> None:
    for answer in TRICKY:
        words = _reference_words(answer)
        exact, f1 = score_answer(prediction, [answer])
        assert exact == float(_reference_words(prediction) == words), (prediction, answer)
        assert f1 == pytest.approx(_reference_f1(_reference_words(prediction), words), abs=1e-12), (prediction, answer)


@given(st.text(alphabet="aAnthe .,-'\t\u00a0xX_1", max_size=20))
def test_normalizing_is_the_reference_s(text: str) -> None:
    assert normalize_answer(text).split() == _reference_words(text)


def test_known_answers() -> None:
    assert score_answer("The Eiffel Tower", ["eiffel tower."]) == (1.0, 1.0)
    assert score_answer("in Paris, France", ["Paris"]) == (0.0, pytest.approx(0.5))
    assert score_answer("Paris", ["London", "Paris", "Rome"]) == (1.0, 1.0)
    assert score_answer("", []) == (1.0, 1.0)
    assert score_answer("Paris", []) == (0.0, 0.0)
    assert score_answer("", ["Paris"]) == (0.0, 0.0)
    assert score_answer("", ["the"]) == (1.0, 1.0)
    """Nothing is left of the only reference, so the official script takes the question's answer as none."""


def test_the_means_of_each_kind() -> None:
    metrics = squad_metrics(["Paris", "", "x", "a b"], [["Paris"], [], [], ["b c"]])
    assert metrics == {
        "exact": 0.5,
        "f1": pytest.approx((1 + 1 + 0 + 2 / 3) / 4),
        "answerability": 0.75,
        "has_answer_exact": 0.5,
        "has_answer_f1": pytest.approx((1 + 2 / 3) / 2),
        "no_answer_exact": 0.5,
    }
    assert "has_answer_f1" not in squad_metrics([""], [[]])
    assert "no_answer_exact" not in squad_metrics([""], [["x"]])


@pytest.mark.parametrize(("predictions", "answers"), [([], []), (["a"], []), ([], [["a"]])])
def test_one_prediction_for_each_question(predictions: list[str], answers: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="predictions for"):
        squad_metrics(predictions, answers)
