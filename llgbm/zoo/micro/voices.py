"""Who asks: a choice of phrases for every value and of sentence frames around them."""

from collections.abc import Callable
from dataclasses import dataclass

from llgbm.zoo.composed import Wordings
from llgbm.zoo.micro import apart, wordings

DESCRIPTIONS = (
    "Take {subject}: {operation}, {style}, {wrapper}.",
    "{Operation} {style} and put it {wrapper}.",
    "For {subject}, {operation}; give the answer {style}, {wrapper}.",
    "The answer should be {wrapper} and {style}: {operation}.",
    "{Operation}. Style: {style}. Wrapping: {wrapper}.",
    "A helper that, given {subject}, will {operation}, {style} and {wrapper}.",
    "Result {wrapper}, {style}. What to do: {operation}.",
    "Work on {subject}. {Operation} {wrapper}, and do so {style}.",
)
UNSEEN_DESCRIPTIONS = ("What I want from {subject}, {wrapper} and {style}, is this: {operation}.",)
REQUESTS = (
    "Please {operation} {style}, {wrapper}: {payload}",
    "{payload} - {operation}, {style}, {wrapper}.",
    "Here is {payload}. {Operation}, {style}, {wrapper}.",
    "I have {payload}; {operation} {wrapper} and {style}.",
    "Given {payload}, {operation}. Answer {wrapper}, {style}.",
    "{Operation} {style}. Put it {wrapper}. Input: {payload}",
    "My input is {payload} and the result must be {wrapper} and {style}: {operation}.",
    "With {payload}, can you {operation}, {style}, {wrapper}?",
)
UNSEEN_REQUESTS = ("Could you take {payload} and {operation}? I need it {style} and {wrapper}.",)

Phrases = dict[str, tuple[str, ...]]
"""Value -> ways to say it."""
FOLDS = len(DESCRIPTIONS)
"""Of MicroZoo-Words: as many as there are frames, and known phrases of every value."""


@dataclass(frozen=True, eq=False)
class Voice:
    """Phrases for subjects, operations, styles and wrappers, and the frames they stand in."""

    subjects: Phrases
    operations: Phrases
    styles: Phrases
    wrappers: Phrases
    descriptions: tuple[str, ...]
    requests: tuple[str, ...]
    count: int = 1
    """Descriptions of a task that this voice gives, where it is one that training never hears."""


def _voice(choose: Callable[[Wordings], tuple[str, ...]], descriptions: tuple[str, ...], requests: tuple[str, ...]) -> Voice:
    tables = (wordings.SUBJECTS, wordings.OPERATIONS, wordings.STYLES, wordings.WRAPPERS)
    subjects, operations, styles, wrappers = ({name: choose(words) for name, words in table.items()} for table in tables)
    return Voice(subjects, operations, styles, wrappers, descriptions, requests)


def fold_voices(fold: int) -> tuple[Voice, Voice]:
    """The known voice without one phrase of every value and one frame of each kind, and the voice that has these alone."""

    def split(items: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        held = items[fold % len(items)]
        return tuple(item for item in items if item != held), (held,)

    known, held = (_voice(lambda words, i=i: split(words.seen)[i], split(DESCRIPTIONS)[i], split(REQUESTS)[i]) for i in (0, 1))
    return known, held


KNOWN = _voice(lambda words: words.seen, DESCRIPTIONS, REQUESTS)
UNKNOWN = _voice(lambda words: words.unseen, UNSEEN_DESCRIPTIONS, UNSEEN_REQUESTS)
APART = Voice(apart.SUBJECTS, apart.OPERATIONS, apart.STYLES, apart.WRAPPERS, apart.FRAMES, apart.REQUEST_FRAMES, count=8)
