"""A study small enough for tests: the built-in base, MicroZoo, a few steps."""

from pathlib import Path
from typing import Any

from llgbm.dotted import merge
from llgbm.study.config import StudyConfig, build_study
from llgbm.study.folder import Study

TASK = "reverse-lower-brackets"
SMALL: dict[str, Any] = {
    "tasks": [TASK],
    "seeds": [0],
    "sizes.train_examples": 32,
    "sizes.validation_examples": 12,
    "sizes.test_examples": 20,
    "sizes.max_length": 64,
    "training.epochs": 1,
    "training.evaluations": 2,
    "full.learning_rate": 3e-4,
    "lora.learning_rate": 3e-3,
    "probes.count": 5,
    "probes.every_steps": 3,
    "search.trials": 0,
}


def small_config(**changes: Any) -> StudyConfig:
    """`SMALL` with other values; `sizes__train_examples` is `sizes.train_examples`."""
    return build_study(merge({}, SMALL | {name.replace("__", "."): value for name, value in changes.items()}))


def small_study(folder: Path, **changes: Any) -> Study:
    """A study of `small_config` in a folder."""
    return Study.open(small_config(**changes), folder)
