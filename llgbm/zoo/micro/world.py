"""MicroZoo's task suite: 3 domains x 6 operations x 4 styles x 3 wrappers, generated, plus mixtures across domains.

Splits are held out systematically: within a domain, combination (operation i, style j, wrapper k) is unseen when
`(i + j + 2 k) % 5 == 0`, so every single value and every pair of values still occurs among the seen tasks.
MicroZoo-Wild holds out whole pairs of operation and style instead, with every wrapper (`is_held_pair`).
Train and test examples never share a payload: a hash of the payload decides on which side it falls.
"""

import itertools
import random
from functools import lru_cache

from llgbm.errors import InputError
from llgbm.zoo.composed import distinct_examples, is_test_payload, mixtures, sentences
from llgbm.zoo.micro.attributes import DOMAINS, WRAPPERS, Domain
from llgbm.zoo.micro.voices import KNOWN, UNKNOWN, Voice
from llgbm.zoo.suite import Example, Task, TaskSuite

N_MIXTURES = 24
HELD_PERCENTS = (25, 50)
"""Of the pairs of operation and style, in MicroZoo-Wild."""


def is_unseen_combination(operation: int, style: int, wrapper: int) -> bool:
    """Whether the combination of the values at these positions is held out."""
    return (operation + style + 2 * wrapper) % 5 == 0


def is_held_pair(operation: int, style: int, percent: int) -> bool:
    """Whether MicroZoo-Wild holds out the pair of the values at these positions; each value keeps a pair up to 50%.

    Raises:
        InputError: `percent` is neither 25 nor 50.
    """
    if percent not in HELD_PERCENTS:
        raise InputError(f"{percent}% of the pairs of operation and style held out; choose one of {', '.join(map(str, HELD_PERCENTS))}")
    return (operation + style) % 4 < percent // 25


class MicroTask:
    """One combination of values: the rule that answers, and the words that ask for it.

    With `held_percent`, what is unseen are that share of the pairs of operation and style.
    """

    def __init__(self, domain: Domain, operation: int, style: int, wrapper: int, held_percent: int = 0) -> None:
        self.domain = domain
        self.operation, self.style, self.wrapper = domain.operations[operation], domain.styles[style], WRAPPERS[wrapper]
        unseen = is_held_pair(operation, style, held_percent) if held_percent else is_unseen_combination(operation, style, wrapper)
        self.split = "unseen_combination" if unseen else "seen"
        self.name = f"{self.operation.name}-{self.style.name}-{self.wrapper.name}"

    def example(self, rng: random.Random, test: bool) -> Example:
        """Draw one example from the train or the test side."""
        while True:
            symbols = self._draw(rng)
            payload = self.domain.separator.join(symbols)
            if is_test_payload(payload) == test:
                return Example(payload, self.domain.answer(symbols, self.operation, self.style, self.wrapper))

    def examples(self, count: int, seed: int, test: bool = False) -> tuple[Example, ...]:
        """Draw `count` different examples; the same task, seed and side always give the same ones."""
        rng = random.Random(f"{self.domain.name}/{self.name}/{seed}/{'test' if test else 'train'}")
        return distinct_examples(lambda: self.example(rng, test), count)

    def descriptions(self, rng: random.Random, count: int, voice: Voice) -> tuple[str, ...]:
        """Distinct sentences that describe the task."""
        return self._sentences(rng, voice.descriptions, count, voice, payload=False)

    def requests(self, rng: random.Random, count: int, voice: Voice) -> tuple[str, ...]:
        """Distinct requests with a payload each, as a user would write them, unanswered."""
        return self._sentences(rng, voice.requests, count, voice, payload=True)

    def _sentences(self, rng: random.Random, frames: tuple[str, ...], count: int, voice: Voice, payload: bool) -> tuple[str, ...]:
        slots = {
            "subject": voice.subjects[self.domain.name],
            "operation": voice.operations[self.operation.name],
            "style": voice.styles[self.style.name],
            "wrapper": voice.wrappers[self.wrapper.name],
        }
        return sentences(rng, frames, count, slots, lambda: self.example(rng, test=False).input if payload else "")

    def _draw(self, rng: random.Random) -> list[str]:
        if self.domain.distinct:
            return rng.sample(self.domain.symbols, self.domain.payload_length)
        return rng.choices(self.domain.symbols, k=self.domain.payload_length)


def micro_tasks(held_percent: int = 0) -> list[MicroTask]:
    """Every combination of every domain, in a fixed order."""
    return [
        MicroTask(domain, *combination, held_percent)
        for domain in DOMAINS
        for combination in itertools.product(range(len(domain.operations)), range(len(domain.styles)), range(len(WRAPPERS)))
    ]


@lru_cache(maxsize=4)
def micro_suite(
    seed: int = 0,
    n_train: int = 256,
    n_test: int = 40,
    held_percent: int = 0,
    voices: tuple[Voice, Voice] = (KNOWN, UNKNOWN),
    name: str = "micro",
) -> TaskSuite:
    """MicroZoo as a task suite: 216 single tasks and 24 mixtures of two seen tasks from different domains.

    Args:
        seed: Draws examples, wordings and mixtures; rules, splits and the two sides of payloads do not depend on it.
        n_train: Train examples per task.
        n_test: Test examples per task.
        held_percent: Hold out that share of the pairs of operation and style (25 or 50) instead of single combinations.
        voices: The words that training may use, and those it never sees.
        name: Of the suite.
    """
    singles = [_single(task, seed, n_train, n_test, *voices) for task in micro_tasks(held_percent)]
    tasks = singles + mixtures(singles, N_MIXTURES, random.Random(f"mixtures/{seed}"))
    return TaskSuite(name, {task.name: task for task in tasks})


def _single(task: MicroTask, seed: int, n_train: int, n_test: int, known: Voice, unknown: Voice) -> Task:
    rng = random.Random(f"wordings/{task.domain.name}/{task.name}/{seed}")
    description, *paraphrases = task.descriptions(rng, 33, known)
    return Task(
        name=task.name,
        domain=task.domain.name,
        split=task.split,
        description=description,
        paraphrases=tuple(paraphrases),
        unseen_paraphrases=task.descriptions(rng, unknown.count, unknown),
        prompts=task.requests(rng, 48, known),
        unseen_prompts=task.requests(rng, 8, unknown),
        attributes={"operation": task.operation.name, "style": task.style.name, "wrapper": task.wrapper.name},
        train=task.examples(n_train, seed),
        test=task.examples(n_test, seed, test=True),
    )
