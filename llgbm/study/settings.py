"""The hyperparameters a run takes: what its search found best, or the config's where nothing was searched."""

from dataclasses import asdict
from typing import Any

import yaml
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Integer, Number, read_as
from llgbm.errors import InputError
from llgbm.files import read_yaml, write_text
from llgbm.study.config import Method
from llgbm.study.folder import BEST_FILE, Study
from llgbm.study.training import Settings


@dataclass(frozen=True, config=RECORD)
class Best:
    """The best trial of a search."""

    trial: Integer
    """Its number, from 0."""
    trials: Integer
    """How many were made."""
    metric: str
    score: Number
    """The metric on the validation examples at its end."""
    hyperparameters: dict[str, Integer | Number]


def write_best(study: Study, task: str, method: Method, best: Best) -> None:
    """Write `best.yaml`."""
    write_text(study.search_folder(task, method) / BEST_FILE, yaml.safe_dump(asdict(best), sort_keys=False))


def read_best(study: Study, task: str, method: Method) -> Best | None:
    """What a search found best; None where it has not ended. InputError when its file is damaged."""
    path = study.search_folder(task, method) / BEST_FILE
    return read_as(Best, read_yaml(path), str(path)) if path.exists() else None


def settings_with(study: Study, method: Method, values: dict[str, Any], source: str) -> Settings:
    """The config's hyperparameters with some others. InputError, after the source, for unknown names and values out of range."""
    section = study.config.full if method == "full" else study.config.lora
    return read_as(type(section), {**asdict(section), **values}, source)


def chosen_settings(study: Study, task: str, method: Method) -> Settings:
    """What the search found best; the config's where `search.trials` is 0. InputError when the search has not ended."""
    best = read_best(study, task, method)
    if best is not None:
        return settings_with(study, method, dict(best.hyperparameters), str(study.search_folder(task, method) / BEST_FILE))
    if study.config.search.trials:
        raise InputError(
            f"{study.search_folder(task, method) / BEST_FILE}: no such file; run 'llgbm study search' first, "
            "or set search.trials to 0 and take the config's hyperparameters"
        )
    return settings_with(study, method, {}, "config")
