"""The suite `words`: 250 tasks in English, for bases that know it. Which word of a list or sentence, changed how, dressed how.

What tasks need is what a language model knows: which word is an animal, what a capital is, what the past tense of a verb is.

Splits: values that are `held` in `values.py` stand in no seen task (`unseen_value`: exactly one of them); of the other combinations
(pick i, change j, dress k) those are unseen with `(i + j + 2 k) % 5 == 0`, whatever the payload's shape. Half of all combinations are
tasks; which, is systematic, too; `combination_suite` has all those that are on the seen side. A hash of the payload decides whether it
is a train or a test payload; a second set of test examples, `new_words`, has words alone that no training shows.
"""

import random
from dataclasses import replace
from functools import lru_cache

from llgbm.zoo.composed import distinct_examples, is_test_payload, mixtures, sentences
from llgbm.zoo.suite import CHAT_FRAME, SEEN, Example, Task, TaskSuite
from llgbm.zoo.words import wordings
from llgbm.zoo.words.lexicon import KNOWN, NEVER_TRAINED
from llgbm.zoo.words.payloads import SHAPES, Payload, Words
from llgbm.zoo.words.values import ANY, CHANGES, DRESSES, PICKS, Pick, Value

SYSTEM = "Reply with the answer alone."
NEW_WORDS = "new_words"
N_MIXTURES = 10
N_SHORT = 80
"""Seen tasks of the short suite."""
N_DESCRIPTIONS, N_PROMPTS, N_UNSEEN_PROMPTS = 33, 48, 8


class WordTask:
    """One combination of values, asked of payloads of one shape: the rule that answers, and the words that ask for it."""

    def __init__(self, domain: str, pick: Pick, change: Value, dress: Value) -> None:
        self.domain, self.pick, self.change, self.dress = domain, pick, change, dress
        name = f"{pick.name}-{change.name}-{dress.name}"
        self.name = name if domain == "list" else f"{domain}-{name}"
        self.split = "unseen_value" if self.n_held else "unseen_combination" if self._sum(1, 1, 2) % 5 == 0 else "seen"

    @property
    def n_held(self) -> int:
        """How many of its values no seen task has."""
        return sum(value.held for value in (self.pick, self.change, self.dress))

    @property
    def chosen(self) -> bool:
        """Whether this combination is among the suite's tasks."""
        if self.n_held:
            return self.n_held == 1 and self.domain == "list" and self._sum(1, 1, 1) % 4 == 0
        if self.domain == "list":
            return self._sum(1, 2, 1) % 2 == 0
        return (self.change.name == "plain" or self.change.name not in ANY) and self._sum(1, 2, 1) % 3 == 0

    def answer(self, payload: Payload) -> str:
        """The right answer to a payload that has what is picked."""
        item = self.pick.apply(list(payload.items))
        assert item is not None
        return self.dress.apply(self.change.apply(item))

    def example(self, rng: random.Random, words: Words, test: bool) -> Example:
        """Draw one example from the train or the test side."""
        kind = self.pick.name if self.pick.place is None else None
        while True:
            payload = SHAPES[self.domain](rng, words, kind)
            if is_test_payload(payload.text) == test:
                return Example(payload.text, self.answer(payload))

    def examples(self, count: int, seed: int, words: Words = KNOWN, test: bool = False) -> tuple[Example, ...]:
        """Draw `count` different examples; the same task, seed, words and side always give the same ones."""
        rng = random.Random(f"{self.name}/{seed}/{'test' if test else 'train'}/{words is KNOWN}")
        return distinct_examples(lambda: self.example(rng, words, test), count)

    def said(self, rng: random.Random, frames: tuple[str, ...], count: int, known: bool) -> tuple[str, ...]:
        """Distinct descriptions or requests, in wordings that training knows or in those it never sees."""
        tables = {
            "subject": wordings.SUBJECTS[self.domain],
            "pick": wordings.PICKS[self.pick.name],
            "change": wordings.CHANGES[self.change.name],
            "dress": wordings.DRESSES[self.dress.name],
        }
        slots = {slot: words.seen if known else words.unseen for slot, words in tables.items()}
        asks = any("{payload}" in frame for frame in frames)
        return sentences(rng, frames, count, slots, lambda: self.example(rng, KNOWN, test=False).input if asks else "")

    def _sum(self, pick: int, change: int, dress: int) -> int:
        """Of the places of its values in their tables, weighted."""
        return pick * PICKS.index(self.pick) + change * CHANGES.index(self.change) + dress * DRESSES.index(self.dress)


def word_tasks() -> list[WordTask]:
    """Every task, in a fixed order: lists, then sentences."""
    return [task for task in _combinations() if task.chosen]


@lru_cache(maxsize=4)
def short_word_suite() -> TaskSuite:
    """Of `words` the unseen combinations, and some of the seen tasks: the second draw, which has every value. Fewer test examples.

    For small machines.
    """
    whole = word_suite(n_test=10, n_new=10)
    drawn = random.Random(f"{N_SHORT} of words/1").sample(sorted(whole.select(split=SEEN).tasks), N_SHORT)
    return replace(whole.select([*drawn, *whole.select(split="unseen_combination").tasks]), name=f"words-{N_SHORT}")


@lru_cache(maxsize=4)
def combination_suite(seed: int = 0, n_train: int = 64) -> TaskSuite:
    """Every combination of seen values that is not held out, a task of `words` or not, asked for in words that training knows.

    Args:
        seed: As of `word_suite`.
        n_train: Train examples per task; there are as many test examples as a suite needs, one.
    """
    tasks = [_single(task, seed, n_train, 1, 1) for task in _combinations() if task.split == SEEN]
    return TaskSuite("words-combinations", {task.name: task for task in tasks}, frame=CHAT_FRAME, system=SYSTEM)


@lru_cache(maxsize=4)
def word_suite(seed: int = 0, n_train: int = 256, n_test: int = 40, n_new: int = 40) -> TaskSuite:
    """The suite `words`, with mixtures of a seen task on lists and one on sentences.

    Args:
        seed: Draws examples, wordings and mixtures; rules, splits, the sides of payloads and of words do not depend on it.
        n_train: Train examples per task.
        n_test: Test examples per task, of words that training shows.
        n_new: Test examples per task, of words that it never shows.
    """
    singles = [_single(task, seed, n_train, n_test, n_new) for task in word_tasks()]
    tasks = singles + mixtures(singles, N_MIXTURES, random.Random(f"mixtures/{seed}"))
    return TaskSuite("words", {task.name: task for task in tasks}, frame=CHAT_FRAME, system=SYSTEM)


def _combinations() -> list[WordTask]:
    """Every combination that can be asked of a payload, in a fixed order: lists, then sentences, whose places nobody counts."""
    changes = {change.name: change for change in CHANGES}
    tasks = [
        WordTask(domain, pick, changes[name], dress) for domain in SHAPES for pick in PICKS for name in pick.changes for dress in DRESSES
    ]
    return [task for task in tasks if task.domain == "list" or task.pick.place is None]


def _single(task: WordTask, seed: int, n_train: int, n_test: int, n_new: int) -> Task:
    rng = random.Random(f"wordings/{task.name}/{seed}")
    description, *paraphrases = task.said(rng, wordings.DESCRIPTIONS, N_DESCRIPTIONS, known=True)
    return Task(
        name=task.name,
        domain=task.domain,
        split=task.split,
        description=description,
        paraphrases=tuple(paraphrases),
        unseen_paraphrases=task.said(rng, wordings.UNSEEN_DESCRIPTIONS, 1, known=False),
        prompts=task.said(rng, wordings.REQUESTS, N_PROMPTS, known=True),
        unseen_prompts=task.said(rng, wordings.UNSEEN_REQUESTS, N_UNSEEN_PROMPTS, known=False),
        attributes={"pick": task.pick.name, "change": task.change.name, "dress": task.dress.name},
        train=task.examples(n_train, seed),
        test=task.examples(n_test, seed, test=True),
        further_tests={NEW_WORDS: task.examples(n_new, seed, NEVER_TRAINED, test=True)},
    )
