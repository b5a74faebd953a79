"""Typed trees of dataclasses: checked against values from YAML or the command line, described for `--help`.

A field's annotation is its type, `number` gives it bounds, and the string literal after it is its description.
"""

import ast
import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from llgbm.errors import InputError
from llgbm.files import read_text


def number(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A number field with bounds: at least `low`, at most `high`, greater than `above`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def from_values(section: type, values: Any, faults: list[str], prefix: str = "") -> Any:
    """A dataclass from nested values, checked and coerced; what is wrong is added to `faults` by dotted name."""
    result = section()
    if not isinstance(values, Mapping):
        faults.append(f"{prefix.rstrip('.')} must be a mapping, found {values!r}")
        return result
    hints = typing.get_type_hints(section)
    entries = {entry.name: entry for entry in dataclasses.fields(section)}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in entries:
            near = difflib.get_close_matches(str(key), entries, n=1)
            faults.append(f"unknown key {name}" + (f" (did you mean {prefix}{near[0]}?)" if near else ""))
        elif dataclasses.is_dataclass(hints[key]):
            setattr(result, key, from_values(typing.cast(type, hints[key]), value, faults, f"{name}."))
        else:
            setattr(result, key, _checked(name, value, hints[key], entries[key].metadata, faults))
    return result


def _checked(name: str, value: Any, kind: Any, bounds: Mapping[str, Any], faults: list[str]) -> Any:
    try:
        result = coerced(value, kind)
    except (TypeError, ValueError):
        faults.append(f"{name} must be {type_name(kind)}, found {value!r}")
        return value
    if isinstance(result, int | float) and not isinstance(result, bool):
        fault = _out_of_range(result, bounds)
        if fault:
            faults.append(f"{name} must be {fault}, found {value!r}")
    return result


def _out_of_range(value: float, bounds: Mapping[str, Any]) -> str:
    if not math.isfinite(value):
        return "finite"
    low, high, above = bounds.get("low"), bounds.get("high"), bounds.get("above")
    if low is not None and value < low:
        return f"at least {low}"
    if high is not None and value > high:
        return f"at most {high}"
    return f"greater than {above}" if above is not None and value <= above else ""


def coerced(value: Any, kind: Any) -> Any:
    """The value as the annotated type; TypeError or ValueError if it is not one."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        value = {False: "no"}.get(value, value) if isinstance(value, bool) else value  # YAML reads a bare `no` as False
        if value not in typing.get_args(kind):
            raise ValueError
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return coerced(value, next(part for part in typing.get_args(kind) if part is not types.NoneType))
    if origin is list:
        if not isinstance(value, list | tuple):
            raise TypeError
        return [coerced(item, typing.get_args(kind)[0]) for item in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError
        return {key: coerced(item, typing.get_args(kind)[1]) for key, item in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, str):
        return float(value)  # YAML reads 3e-4 as a string
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return value


@cache
def describe(section: type, prefix: str = "") -> dict[str, tuple[Any, Any, str]]:
    """Dotted name -> (type, default, docstring) of every leaf field."""
    described: dict[str, tuple[Any, Any, str]] = {}
    hints, texts, defaults = typing.get_type_hints(section), _field_docstrings(section), section()
    for entry in dataclasses.fields(section):
        kind = hints[entry.name]
        if dataclasses.is_dataclass(kind):
            described |= describe(typing.cast(type, kind), f"{prefix}{entry.name}.")
        else:
            described[prefix + entry.name] = (kind, getattr(defaults, entry.name), texts.get(entry.name, ""))
    return described


def type_name(kind: Any) -> str:
    """A type as a person would say it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_name(part) for part in parts)
    if origin is list:
        return f"a list of {type_name(parts[0])}"
    if origin is dict:
        return "a mapping" if parts[1] is Any else f"a mapping to {type_name(parts[1])}"
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false", types.NoneType: "null"}.get(kind, str(kind))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted name -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def merge(base: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with dotted overrides on top."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for name, value in dotted.items():
        *sections, key = name.split(".")
        place = merged
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; InputError for a missing file, bad syntax or a key that stands twice."""
    text = read_text(path)
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of config fields, found {type(values).__name__}")
    return values or {}


def _field_docstrings(section: type) -> dict[str, str]:
    """Field name -> the string literal that follows it in the source."""
    body = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        one.target.id: two.value.value
        for one, two in zip(body.body, body.body[1:], strict=False)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        if isinstance(two, ast.Expr) and isinstance(two.value, ast.Constant) and isinstance(two.value.value, str)
    }


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
