"""Values from outside against declared types: all faults at once, each with its dotted name, what was expected and what was found.

pydantic does the checking; here is how this package declares its types and says what is wrong. A field's annotation is
its type, `Field` gives it bounds, and the string literal after it is its description.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Strict, TypeAdapter, ValidationError

from llgbm.errors import InputError

T = TypeVar("T")
MOST_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value  # YAML reads 3e-4 as a string
    except ValueError:
        return value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half of a surrogate pair at character {error.start + 1}, which is no text; remove it") from error
    return value


Text = Annotated[str, AfterValidator(_encodable)]
"""A string that can be written to a file."""
Integer = Annotated[int, Strict()]
"""A whole number; 3.7, 3.0, "3" and true are none."""
Number = Annotated[float, Strict(), BeforeValidator(_number)]
"""A finite number, whole ones and "3e-4" too."""
Flag = Annotated[bool, Strict()]
"""true or false; 1 and "yes" are none."""
List = Annotated[list[T], Strict(), BeforeValidator(_listed)]
"""A list or tuple, kept as a list; sets have no order and are none."""

EXPECTED = {
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "greater than {gt}",
    "finite_number": "finite",
    "too_short": "at least {min_length} long",
    "string_too_short": "at least {min_length} long",
}
"""What pydantic's errors about bounds expect; the others expect the declared type."""

FOLLOWS = "default_factory_not_called"
"""What pydantic says of a default that follows another field, when that one is wrong; the other fault says it all."""

SECTION = ConfigDict(use_attribute_docstrings=True, extra="forbid", validate_assignment=True, allow_inf_nan=False)
"""For dataclasses a person fills in: unknown keys are faults, and assignment is checked as construction is."""
RECORD = ConfigDict(extra="ignore", allow_inf_nan=False)
"""For what files hold, this package's or other tools': what is read is checked, the rest is left alone."""


def read_as(kind: type[T], values: Any, source: str) -> T:
    """The values as the declared type, checked and coerced.

    Raises:
        InputError: All faults together, after the source: unknown keys (with near matches), wrong types, values out of range.
    """
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        faults = [_fault(kind, entry) for entry in error.errors(include_url=False) if entry["type"] != FOLLOWS]
        raise InputError(f"{source}: " + "; ".join(faults)) from error


def describe(section: type, prefix: str = "") -> dict[str, tuple[Any, Any, str]]:
    """Dotted name -> (type, default, docstring) of every leaf field of a pydantic dataclass."""
    described: dict[str, tuple[Any, Any, str]] = {}
    for name, kind in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            described |= describe(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            entry = section.__pydantic_fields__[name]  # type: ignore[attr-defined]
            described[prefix + name] = (kind, entry.get_default(call_default_factory=True, validated_data={}), entry.description or "")
    return described


def type_name(kind: Any) -> str:
    """A type as a person would say it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_name(part) for part in parts)
    if origin in (list, tuple):
        return f"a list of {type_name(parts[0])}"
    if origin is dict:
        return "a mapping" if parts[1] is Any else f"a mapping to {type_name(parts[1])}"
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false", types.NoneType: "null", Any: "a value"}
    return names.get(kind) or ("a mapping" if dataclasses.is_dataclass(kind) else str(kind))


def shown(value: Any) -> str:
    """A wrong value as a message repeats it: escaped, and cut when it is long."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


@cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def _fault(kind: Any, entry: Mapping[str, Any]) -> str:
    """One of pydantic's errors in one clause."""
    place, name = entry["loc"], _dotted(entry["loc"])
    if entry["type"] in ("unexpected_keyword_argument", "invalid_key"):
        fields = typing.get_type_hints(_kind_at(kind, place[:-1]))
        near = difflib.get_close_matches(str(place[-1]), fields, n=1)
        return f"unknown key {name}" + (f" (did you mean {_dotted((*place[:-1], near[0]))}?)" if near else "")
    if entry["type"] == "missing":
        return f"{name} is missing; give {type_name(_kind_at(kind, place))}"
    if entry["type"] == "value_error":
        return f"{name}: {entry['ctx']['error']}"
    limits = {key: f"{limit:g}" if isinstance(limit, float) else limit for key, limit in entry.get("ctx", {}).items()}
    expected = EXPECTED.get(entry["type"], "").format(**limits) or type_name(_kind_at(kind, place))
    return f"{name or 'the whole'} must be {expected}, found {shown(entry['input'])}"


def _dotted(place: tuple[Any, ...]) -> str:
    """`teachers[3].seed`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part if str(part).isprintable() else shown(part)}" for part in place)
    return "".join(parts).removeprefix(".")


def _kind_at(kind: Any, place: tuple[Any, ...]) -> Any:
    """The type declared at a place inside a type."""
    for part in place:
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
        if dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind)[part]
        else:
            kind = typing.get_args(kind)[1 if typing.get_origin(kind) is dict else 0]
    return kind
