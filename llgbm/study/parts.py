"""The parts of a task: examples to train on, to choose by, and to judge by, which never mix.

Validation comes from the train split, by a fixed seed; the test split is only cut.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from llgbm.errors import InputError
from llgbm.study.config import SizesConfig

Item = TypeVar("Item")
Part = Literal["train", "validation", "test"]
SPLIT_SEED = 20260101
"""Draws validation examples and subsets: the same for every method, seed and search."""


@dataclass(frozen=True)
class Parts(Generic[Item]):
    """A task's examples by what they are for."""

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]

    def __getitem__(self, part: Part) -> tuple[Item, ...]:
        return getattr(self, part)

    def learned_by_heart(self, count: int) -> "Parts[Item]":
        """The first train examples, also to validate on: a model that can learn comes to answer these."""
        few = self.train[:count]
        return replace(self, train=few, validation=few)

    def with_train(self, train: Sequence[Item]) -> "Parts[Item]":
        """Others to train on."""
        return replace(self, train=tuple(train))

    def at_most(self, count: int | None) -> "Parts[Item]":
        """The first train examples, all the others; None keeps all."""
        return replace(self, train=self.train[:count])


def cut_parts(
    name: str, train: Sequence[Item], test: Sequence[Item], sizes: SizesConfig, group: Callable[[Item], str] | None = None
) -> Parts[Item]:
    """Cut validation examples from the train split, and both splits to the sizes asked for.

    Args:
        name: Of the task, for messages.
        train: The train split.
        test: The test split.
        sizes: How much of each is wanted.
        group: What examples belong to that are not independent, such as an article: none trains and validates.

    Raises:
        InputError: The train split has no examples left beside validation, or the test split has none.
    """
    shuffled = random.Random(SPLIT_SEED).sample(list(train), len(train))
    if group is not None:
        groups = list(dict.fromkeys(map(group, shuffled)))
        shuffled.sort(key=lambda item: groups.index(group(item)))  # whole groups first; within each the order drawn stays
    held_back, rest = shuffled[: sizes.validation_examples], shuffled[sizes.validation_examples :]
    if group is not None:
        known = set(map(group, held_back))
        rest = [item for item in random.Random(SPLIT_SEED).sample(rest, len(rest)) if group(item) not in known]
    if not rest or not test:
        raise InputError(
            f"task {name}: {len(train)} train and {len(test)} test examples; {sizes.validation_examples} of the train examples are kept "
            "for validation: lower sizes.validation_examples, or give the task more examples"
        )
    tested = random.Random(SPLIT_SEED).sample(list(test), len(test))[: sizes.test_examples]
    return Parts(tuple(rest[: sizes.train_examples_for(name)]), tuple(held_back), tuple(tested))
