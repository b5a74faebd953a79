"""How a user might say each value of MicroZoo's attributes (`wordings.yaml`): wordings for training, and others that only ever test."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llgbm.errors import InputError
from llgbm.schema import read_yaml

DEFAULT, MOST = 8, 16
"""Wordings of each value that training may use: a suite's number, and how many are written."""


@dataclass(frozen=True)
class Wordings:
    """Phrases for one value, or frames of sentences; an `unseen` one never occurs in training."""

    seen: tuple[str, ...]
    unseen: str


@dataclass(frozen=True)
class Phrases:
    """What a user may say: for each value of each attribute, and the sentences that hold them."""

    subjects: dict[str, Wordings]
    wrappers: dict[str, Wordings]
    operations: dict[str, Wordings]
    styles: dict[str, Wordings]
    descriptions: Wordings
    requests: Wordings


@lru_cache
def load_phrases(count: int = DEFAULT) -> Phrases:
    """The first `count` wordings of each value, as far as there are so many. InputError when `count` is out of range."""
    if not 1 <= count <= MOST:
        raise InputError(f"MicroZoo has up to {MOST} wordings of each value, {count} were asked for; give 1 to {MOST}")
    values = read_yaml(Path(__file__).with_name("wordings.yaml"))
    return Phrases(**{name: _read(value, count) for name, value in values.items()})


def _read(value: dict[str, Any], count: int) -> Any:
    """Wordings, or a dictionary of them."""
    if "seen" in value:
        return Wordings(tuple(value["seen"][:count]), value["unseen"])
    return {name: _read(nested, count) for name, nested in value.items()}
