"""Nested mappings and dotted names: one level of `training.batch_size` against two levels of keys."""

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted name -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def merge(base: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with dotted overrides on top; where a section is no mapping it stays, for the check that follows to name."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for name, value in dotted.items():
        *sections, key = name.split(".")
        place = merged
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else place
        if isinstance(place, dict):
            place[key] = value
    return merged
