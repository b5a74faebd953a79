"""What suites have in common whose tasks combine values of attributes: wordings, sentences, two sides of payloads, mixtures."""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llgbm.zoo.suite import Example, Task

TEST_SHARE = 5
"""One payload in this many belongs to the test side."""
TRIES = 50
"""Draws per sentence wanted, before as many as were found are enough."""


@dataclass(frozen=True)
class Wordings:
    """Phrases for one value; `unseen` never occurs in training."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


def say(seen: str, unseen: str) -> Wordings:
    """One wording a line."""
    return Wordings(*(tuple(line.strip() for line in text.strip().splitlines()) for text in (seen, unseen)))


def is_test_payload(payload: str) -> bool:
    """Whether a payload belongs to the test side, whatever the task, count or seed."""
    return hashlib.sha256(payload.encode()).digest()[0] % TEST_SHARE == 0


def distinct_examples(draw: Callable[[], Example], count: int) -> tuple[Example, ...]:
    """As many examples with different inputs."""
    drawn: dict[str, Example] = {}
    while len(drawn) < count:
        example = draw()
        drawn.setdefault(example.input, example)
    return tuple(drawn.values())


def sentences(
    rng: random.Random,
    frames: Sequence[str],
    count: int,
    slots: Mapping[str, Sequence[str]],
    payload: Callable[[], str] = str,
) -> tuple[str, ...]:
    """Distinct sentences, each a frame with a phrase in every slot; `{Slot}` is the phrase with a capital.

    Args:
        rng: Draws phrases in the order of the slots, the payload, then the frame.
        frames: With the slots' names in braces, and perhaps `{payload}`.
        count: At most so many: fewer where there are not enough.
        slots: Name -> phrases to choose from.
        payload: Draws one.
    """
    found: dict[str, None] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        words = {slot: rng.choice(phrases) for slot, phrases in slots.items()} | {"payload": payload()}
        words |= {slot.capitalize(): words[slot][0].upper() + words[slot][1:] for slot in slots}
        found[rng.choice(frames).format(**words)] = None
    return tuple(found)


def mixtures(singles: Iterable[Task], count: int, rng: random.Random) -> list[Task]:
    """Unions of two seen tasks, the pairs of domains in turn, no task in two mixtures."""
    pools: dict[str, list[Task]] = {}
    for task in singles:
        of_domain = pools.setdefault(task.domain, [])
        if task.split == "seen":
            of_domain.append(task)
    for pool in pools.values():
        rng.shuffle(pool)
    pairs = itertools.cycle(itertools.combinations(pools, 2))
    return [_union(pools[a].pop(), pools[b].pop()) for a, b in itertools.islice(pairs, count)]


def _union(one: Task, two: Task) -> Task:
    def both(field: str) -> tuple:
        return tuple(itertools.chain.from_iterable(zip(getattr(one, field), getattr(two, field), strict=False)))

    def joined(field: str) -> tuple[str, ...]:
        return tuple(f"{a} And also: {b}" for a, b in zip(getattr(one, field), getattr(two, field), strict=False))

    return Task(
        name=f"{one.name}+{two.name}",
        domain=f"{one.domain}+{two.domain}",
        split="mixture",
        description=f"{one.description} And also: {two.description}",
        paraphrases=joined("paraphrases"),
        unseen_paraphrases=joined("unseen_paraphrases"),
        prompts=both("prompts"),
        unseen_prompts=both("unseen_prompts"),
        parts=(one.name, two.name),
        train=both("train"),
        test=both("test"),
    )
