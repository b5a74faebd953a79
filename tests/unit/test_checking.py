"""Values against declared types: each fault by its place, in the words of a person."""

from typing import Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from llgbm.checking import MOST_SHOWN, SECTION, Flag, Integer, List, Number, describe, read_as, shown, type_name
from llgbm.errors import InputError


@dataclass(config=SECTION)
class Row:
    """A row."""

    seed: Integer
    """Its seed."""
    share: Number = Field(default=0.5, gt=0, le=1)
    """Its share."""


@dataclass(config=SECTION)
class Table:
    """A table."""

    rows: List[Row]
    """Its rows."""
    by_name: dict[str, List[str]] = Field(default_factory=dict)
    """Lists by name."""
    whole: Flag = False
    """Whether it is whole."""


def test_values_become_the_declared_types() -> None:
    table = read_as(Table, {"rows": [{"seed": 1, "share": "3e-1"}, {"seed": 2, "share": 1}], "by_name": {"a": ("b",)}}, "t")
    assert table == Table([Row(1, 0.3), Row(2, 1.0)], {"a": ["b"]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "t: the whole must be a mapping, found []"),
        ({}, "t: rows is missing; give a list of a mapping"),
        ({"rows": [{"seed": 1}, {"seed": "1"}]}, "t: rows[1].seed must be an integer, found '1'"),
        ({"rows": [{"sed": 1}]}, "t: rows[0].seed is missing; give an integer; unknown key rows[0].sed (did you mean rows[0].seed?)"),
        ({"rows": [{"seed": 1, "share": "much"}]}, "t: rows[0].share must be a number, found 'much'"),
        ({"rows": [{"seed": 1, "share": 0}]}, "t: rows[0].share must be greater than 0, found 0"),
        ({"rows": [], "by_name": {"a": [None]}}, "t: by_name.a[0] must be a string, found None"),
        ({"rows": [], "whole": 1}, "t: whole must be true or false, found 1"),
        ({"rows": [], 3: 4}, "t: unknown key [3]"),
        ({"rows": [], "a\nb": 4}, r"t: unknown key 'a\nb'"),
    ],
)
def test_a_fault_names_its_place(values: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_as(Table, values, "t")
    assert str(caught.value) == message


def test_a_long_value_is_cut() -> None:
    assert shown("x" * 1000) == "'" + "x" * (MOST_SHOWN - 4) + "..."
    with pytest.raises(InputError, match=r"found 'x{76}\.\.\.$"):
        read_as(Table, "x" * 1000, "t")


def test_fields_are_described_by_their_docstrings() -> None:
    assert describe(Row)["share"] == (float, 0.5, "Its share.")


def test_types_are_said_in_words() -> None:
    assert type_name(Literal["a", "b"]) == "one of a, b"
    assert type_name(dict[str, list[int]] | None) == "a mapping to a list of an integer or null"
    assert type_name(tuple[Row, ...]) == "a list of a mapping"
