"""Dotted names: flattened and merged, nothing lost."""

from llgbm.dotted import flatten, merge


def test_flatten_names_every_leaf() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_merge_overrides_single_values_and_leaves_its_arguments() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a.b": 4, "e.f": 5, "d": 6}) == {"a": {"b": 4, "c": 2}, "d": 6, "e": {"f": 5}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_what_is_no_section_stays() -> None:
    assert merge({"a": 3}, {"a.b": 4}) == {"a": 3}
