"""Behavior alone, two ways: b1, a generator that never sees its teachers' weights; b2, a predictor of fingerprints to retrieve by."""

from collections.abc import Callable

from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.losses import OBJECTIVES
from llgbm.progress import ProgressCallback
from llgbm.training.behavior import train_generator
from llgbm.training.fingerprint import train_predictor
from llgbm.training.loop import TrainingResult
from llgbm.training.standing import Begin

IMITATES = frozenset({"fingerprints", "states", "predictions", "logits", "guide"})
"""Needs of a term that has something to imitate, unlike a regularizer."""


def train_delta_only(
    config: ExperimentConfig, variant: str, begin: Begin = "new", progress: ProgressCallback | None = None
) -> TrainingResult:
    """Train one of `VARIANTS`.

    Raises:
        InputError: The variant is unknown, or see the variant's own function.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; choose {' or '.join(VARIANTS)}")
    return VARIANTS[variant](config, begin, progress)


def train_behavior_alone(config: ExperimentConfig, begin: Begin = "new", progress: ProgressCallback | None = None) -> TrainingResult:
    """b1: a generator trained on behavior, with regularizers.

    Raises:
        InputError: A term compares with the teachers' weights, or no term has any behavior to imitate.
    """
    weights = vars(config.objective)
    structural = next((name for name, weight in weights.items() if weight and "teacher" in OBJECTIVES[name].needs), None)
    if structural is not None:
        raise InputError(
            f"variant b1 learns from behavior alone, but objective.{structural} is {weights[structural]}; set it to 0, or use 'llgbm train'"
        )
    if not any(weight and OBJECTIVES[name].needs & IMITATES for name, weight in weights.items()):
        known = ", ".join(name for name, term in OBJECTIVES.items() if term.needs & IMITATES)
        raise InputError(f"variant b1 has no behavior to learn from: give objective a weight for one of {known}")
    return train_generator(config, begin, progress)


VARIANTS: dict[str, Callable[[ExperimentConfig, Begin, ProgressCallback | None], TrainingResult]] = {
    "b1": train_behavior_alone,
    "b2": train_predictor,
}
"""Variant -> how it is trained."""
