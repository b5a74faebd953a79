"""What a generator of attributes reads beside the conditions of its adapters, to learn what requests say.

Reading needs no teacher and costs little beside answering: the tasks of a step come in other wordings, and where tasks are known that have
no teacher, these come too. More combinations teach which words bring an attribute, whatever stands beside it (docs/findings.md).

Letters: T teachers, M other readings, N vectors of a condition, E embedding width, F levels of all attributes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llgbm.models.reader import pad_sets
from llgbm.training.conditions import ConditionTable
from llgbm.training.plan import StepPlan

WORDINGS = 4
"""Of each task without a teacher so many are embedded: for a hundred such tasks under a minute of one core by all-mpnet-base-v2."""


@dataclass(frozen=True)
class Readable:
    """Tasks, the texts that ask for them, and their attributes."""

    names: Sequence[str]
    conditions: ConditionTable
    levels: Float[Tensor, "n F"]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Rereading:
    """Draws the other readings of a step.

    Args:
        taught: The teachers' tasks, in their order.
        further: Tasks without teachers. Where there are some, every reading is of any task, taught or not; else of the step's own.
        count: Readings for each adapter of a step.
    """

    taught: Readable
    further: Readable | None
    count: int

    def draw(self, plan: StepPlan) -> tuple[tuple[Float[Tensor, "M N E"], Bool[Tensor, "M N"]], Float[Tensor, "M F"]]:
        """Conditions of the whole step, whichever part of it this is, and the levels they ask for."""
        sets, levels = [], []
        for copy in range(self.count):
            for own, seed in plan.whole:
                again = f"{seed}/again{copy or ''}"
                tasks, k = self._task(own, again)
                sets.append(tasks.conditions.draw_one(tasks.names[k], again))
                levels.append(tasks.levels[k])
        return pad_sets(sets), torch.stack(levels)

    def _task(self, own: int, seed: str) -> tuple[Readable, int]:
        if self.further is None:
            return self.taught, own
        k = random.Random(f"{seed}/task").randrange(len(self.taught) + len(self.further))
        return (self.taught, k) if k < len(self.taught) else (self.further, k - len(self.taught))
