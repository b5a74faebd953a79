"""Altered texts: the request stays readable in them, the same seed alters the same way, and every kind occurs."""

import random

from llgbm.training.augment import AFTER, BEFORE, altered, with_typo

TEXT = "Sort the digits, in brackets: largest first."


def test_the_same_seed_alters_the_same_way_and_others_differ():
    found = [altered(TEXT, str(seed)) for seed in range(50)]
    assert found == [altered(TEXT, str(seed)) for seed in range(50)]
    assert len(set(found)) > 40
    assert TEXT not in found


def test_every_kind_of_alteration_occurs():
    found = [altered(TEXT, str(seed)) for seed in range(200)]
    assert any(text.startswith(BEFORE) and TEXT in text for text in found)
    assert any(text.endswith(AFTER) for text in found)
    assert TEXT.lower() in found
    assert TEXT.lower().replace(",", " ").replace(":", " ").replace(".", " ") in found
    assert any(abs(len(text) - len(TEXT)) == 1 and text[:4] == TEXT[:4] for text in found)


def test_a_typo_is_one_edit_and_texts_without_letters_stay():
    rng = random.Random(0)
    for _ in range(300):
        typed = with_typo("abcdef", rng)
        assert abs(len(typed) - 6) <= 1
        same = sum(a == b for a, b in zip(typed, "abcdef", strict=False)) + sum(a == b for a, b in zip(typed[::-1], "fedcba", strict=False))
        assert same >= 4
    assert with_typo("12 ?", rng) == "12 ?"
    assert {with_typo("a", rng) for _ in range(100)} >= {"", "a", "b", "ab"}
