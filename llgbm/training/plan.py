"""What each step trains on, as a function of seed and step number."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class StepPlan:
    """What one step trains on; a function of seed and step alone, so resuming needs no random state."""

    teachers: tuple[int, ...]
    examples: tuple[tuple[int, ...], ...]
    condition_seeds: tuple[str, ...]
    whole: tuple[tuple[int, str], ...]
    """Teacher and condition seed of every adapter of the step, whichever part of it this is."""
    start: int = 0
    """Where this part begins in the whole."""

    def part(self, start: int, stop: int) -> "StepPlan":
        """Some of the step's teachers."""
        seeds = self.condition_seeds[start:stop]
        return StepPlan(self.teachers[start:stop], self.examples[start:stop], seeds, self.whole, self.start + start)

    def parts(self, at_once: int) -> list["StepPlan"]:
        """All of it, in as few parts as hold at most so many teachers, which differ by one at most."""
        count = -(-len(self) // at_once)
        return [self.part(i * len(self) // count, (i + 1) * len(self) // count) for i in range(count)]

    def __len__(self) -> int:
        return len(self.teachers)


def plan_step(seed: int, step: int, n_teachers: int, tasks_per_step: int, per_teacher: int, examples_per_task: int) -> StepPlan:
    """Go through the teachers in a new random order each epoch, with random examples of each."""
    first = step * tasks_per_step
    orders: dict[int, list[int]] = {}
    teachers = []
    for position in range(first, first + tasks_per_step):
        epoch, place = divmod(position, n_teachers)
        if epoch not in orders:
            orders[epoch] = random.Random(f"order/{seed}/{epoch}").sample(range(n_teachers), n_teachers)
        teachers.append(orders[epoch][place])
    rng = random.Random(f"examples/{seed}/{step}")
    count = min(examples_per_task, per_teacher)
    examples = tuple(tuple(rng.sample(range(per_teacher), count)) for _ in teachers)
    seeds = tuple(f"condition/{seed}/{step}/{i}" for i in range(tasks_per_step))
    return StepPlan(tuple(teachers), examples, seeds, tuple(zip(teachers, seeds, strict=True)))
