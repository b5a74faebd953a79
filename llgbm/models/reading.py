"""What a text says of each attribute: a regression on products of its words, its strength chosen on tasks held out in turn.

Letters: T tasks, n texts of a task, E embedding width, F levels of all attributes.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.models.kernel_ridge import STRENGTHS, KernelRidge, folds

CERTAINTY = 12.0
"""By how much the log-odds of a level rise from where the regression says 0 to where it says 1."""
KERNEL = "polynomial"
"""It reads more than a linear one in new words, and more than products alone where few tasks were seen (docs/findings.md)."""
NOWHERE = -1
"""Home of a level that may be asked for in any domain."""
ACCIDENT = 0.05
"""Chance that each level of an attribute has all its tasks in one domain, were domains drawn, from which it may be an accident."""
FOREIGN = -100.0
"""Log-odds of a level of another domain."""
TEXTS, TEXTS_IN_CHOICE = 32, 8
"""Most texts per task that a regression knows, in the end and while its strength is chosen."""


@dataclass(frozen=True)
class Reading:
    """One number per level, near 1 where a text asks for it, and how that was found."""

    ridge: KernelRidge
    strength: float
    chosen_on: tuple[int, ...]
    """Which of the tasks were held out."""


def fit_reading(texts: Sequence[Float[Tensor, "_ E"]], labels: Float[Tensor, "T F"], counts: Sequence[int]) -> Reading:
    """Fit it to tasks whose levels are known.

    Args:
        texts: For each task the embedded texts that ask for it; the first asks when it is held out.
        labels: One-hot within each attribute, zero where a task lacks it.
        counts: Levels of each attribute; their sum is F.
    """
    few = [rows[spread(len(rows), TEXTS_IN_CHOICE)] for rows in texts]

    def right(strength: float) -> int:
        """How many levels of tasks held out are read right."""
        found = 0
        for held, kept in in_turn(len(labels)):
            said = regress([few[task] for task in kept], labels[kept], strength)(torch.stack([texts[task][0] for task in held]))
            found += levels_right(said, labels[held], counts)
        return found

    strength = max(STRENGTHS, key=right)
    ridge = regress([rows[spread(len(rows), TEXTS)] for rows in texts], labels, strength)
    return Reading(ridge, strength, tuple(task for held in folds(len(labels), len(labels)) for task in held))


def in_turn(tasks: int) -> Iterator[tuple[list[int], list[int]]]:
    """Tasks that are held out together, and all others, until each was held out; nothing where no other is left."""
    for held in folds(tasks, tasks):
        kept = [task for task in range(tasks) if task not in held]
        if kept:
            yield held, kept


def levels_right(said: Float[Tensor, "n F"], labels: Float[Tensor, "n F"], counts: Sequence[int]) -> int:
    """How many of the levels that texts ask for are the likeliest of what was read in them."""
    return int((labels.gather(1, likeliest(said, counts)) > 0).sum())


def text_means(texts: Sequence[Float[Tensor, "_ E"]]) -> Float[Tensor, "n E"]:
    """The mean vector of each text."""
    return torch.stack([text.mean(0) for text in texts])


def homes_of(attributes: Sequence[dict[str, str]], domains: Sequence[str], levels: dict[str, list[str]]) -> list[int]:
    """For each level the number of the only domain whose tasks have it; NOWHERE for those of an attribute that does not tell domains apart.

    It does where each domain has a level, no two have the same one, and that is no accident: few tasks may have each level once.

    Args:
        attributes: Of each task.
        domains: Of each task.
        levels: Of each attribute.
    """
    found: list[int] = []
    number = {domain: i for i, domain in enumerate(sorted(set(domains)))}
    for name, known in levels.items():
        seen_in = [[number[domain] for own, domain in zip(attributes, domains, strict=True) if own.get(name) == level] for level in known]
        tasks = Counter(itertools.chain(*seen_in))
        by_accident = math.prod(sum((count / tasks.total()) ** len(places) for count in tasks.values()) for places in seen_in)
        apart = all(len({*places}) == 1 for places in seen_in) and len(tasks) == len(number) and by_accident < ACCIDENT
        found += [places[0] if apart else NOWHERE for places in seen_in]
    return found


def in_one_domain(said: Float[Tensor, "n F"], counts: Sequence[int], homes: Sequence[int]) -> Float[Tensor, "n F"]:
    """Log-probabilities of the levels of each attribute, side by side, when all are asked for in one domain: the likeliest one.

    A domain is as likely as the likeliest level of each attribute there: then the likeliest levels stay so where they are of one domain.

    Args:
        said: Log-odds within each attribute.
        counts: Levels of each attribute; their sum is F.
        homes: As `homes_of` finds them.
    """
    said = _normalized(said, counts)
    domains = sorted({*homes} - {NOWHERE})
    if not domains:
        return said
    there = torch.tensor([[home in (domain, NOWHERE) for home in homes] for domain in domains], device=said.device)
    of_each = said.masked_fill(~there[:, None], -torch.inf).split(list(counts), -1)
    domain = torch.stack([part.amax(-1) for part in of_each]).sum(0).argmax(0)
    return _normalized(said.masked_fill(~there[domain], FOREIGN), counts)


def _normalized(said: Float[Tensor, "n F"], counts: Sequence[int]) -> Float[Tensor, "n F"]:
    return torch.cat([part.log_softmax(1) for part in said.split(list(counts), 1)], 1)


def likeliest(numbers: Float[Tensor, "n F"], counts: Sequence[int]) -> Tensor:
    """For each attribute the place, among all levels, of the one with the largest number: integers [n, attributes]."""
    starts = [sum(counts[:slot]) for slot in range(len(counts))]
    return torch.stack([start + part.argmax(1) for start, part in zip(starts, numbers.split(list(counts), 1), strict=True)], 1)


def spread(count: int, most: int) -> list[int]:
    """Places of at most so many of `count` items, evenly spread over all."""
    m = min(most, count)
    return [i * count // m for i in range(m)]


def regress(texts: Sequence[Float[Tensor, "_ E"]], labels: Float[Tensor, "T F"], strength: float) -> KernelRidge:
    """A regression from all texts of tasks to their levels."""
    outputs = labels.repeat_interleave(torch.tensor([len(rows) for rows in texts]), 0)
    return KernelRidge(torch.cat(list(texts)), outputs, KERNEL, strength)
