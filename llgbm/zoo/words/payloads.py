"""Payloads of the suite `words`: lists of four words, and sentences, each with at most one word of a kind."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from llgbm.zoo.words.values import Item

Words = Mapping[str, tuple[str, ...]]
"""Kind -> words to draw from."""
LENGTH = 4
"""Words of a list."""
TOGETHER_NEVER = {"color", "adjective"}
"""A color is an adjective, too: who is asked for the adjective could not tell which is meant."""
SENTENCES = (
    "The {adjective} {animal} must {verb} the {object}.",
    "In {country}, the {job} will {verb} the {color} {object}.",
    "My {animal}, some {food} and the {color} {object} are here.",
    "The {job} from {country} put the {food} near the {adjective} {object}.",
    "They will {verb} the {food} for the {animal} in {country}.",
    "The {adjective} {job} gave the {animal} some {food}.",
    "A picture of {country} shows the {color} {object} and the {animal}.",
    "We can {verb} the {adjective} {food} near the {job}.",
    "Nobody in {country} could {verb} such {adjective} {food}.",
    "Near the {color} {object} stood the {job} with some {food}.",
)
KINDS_OF = {frame: [name for _, name, _, _ in Formatter().parse(frame) if name] for frame in SENTENCES}
"""Sentence -> kinds of its words, in their order."""


@dataclass(frozen=True)
class Payload:
    """A text and the words in it that tasks are about, in their order."""

    text: str
    items: tuple[Item, ...]


def draw_list(rng: random.Random, words: Words, kind: str | None) -> Payload:
    """Four words of different kinds, one of them of this kind."""
    own = [kind] if kind else []
    others = [name for name in words if name != kind]
    kinds = own + rng.sample(others, LENGTH - len(own))
    while set(kinds) >= TOGETHER_NEVER:
        kinds = own + rng.sample(others, LENGTH - len(own))
    rng.shuffle(kinds)
    items = tuple(Item(rng.choice(words[name]), name) for name in kinds)
    return Payload(", ".join(item.word for item in items), items)


def draw_sentence(rng: random.Random, words: Words, kind: str | None) -> Payload:
    """A sentence with a word of this kind."""
    frame, kinds = rng.choice([(frame, kinds) for frame, kinds in KINDS_OF.items() if kind is None or kind in kinds])
    items = tuple(Item(rng.choice(words[name]), name) for name in kinds)
    return Payload(frame.format(**{item.kind: item.word for item in items}), items)


SHAPES = {"list": draw_list, "sentence": draw_sentence}
"""Domain -> how its payloads are drawn."""
