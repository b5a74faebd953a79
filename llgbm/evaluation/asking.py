"""In which words a split asks for a task: seen or unseen ones, several wordings of them, or altered as people alter what they type.

A split is named `<tasks>` or `<tasks>+<way>`, such as `unseen_combination+one_typo`. No training knows what is added or taken away here.
In the place of a way may stand one of the suite's further sets of test examples: `seen+new_words`.
"""

import difflib
import random
import string
from collections.abc import Callable
from dataclasses import dataclass

from llgbm.errors import InputError
from llgbm.zoo.suite import SPLITS, TaskSuite

OPENINGS = (
    "Hey, sorry to bother you on a Friday.",
    "Good morning! Hope the week treats you kindly.",
    "Dear assistant, I have a small favour to ask.",
    "Hiya :) so my boss wants something done.",
    "Okay, bear with me, it's been a long day.",
    "Greetings from a rainy Hamburg!",
    "First of all, your last answer was brilliant.",
    "Excuse me, could you lend me a minute?",
)
CLOSINGS = (
    "Cheers, and have a good one!",
    "You're a star, truly.",
    "I'd be ever so grateful.",
    "Take your time, I'm off to lunch anyway.",
    "Kind regards, Priya",
    "Please and thank you :)",
    "Hope that makes sense?",
    "Many thanks from the whole team.",
)
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SAVED = """
a an the this that these those it its them their i you your we my me
is are be being will would should can could do does and so then please want
"""
FILLERS = frozenset(_SAVED.split())
"""Words that a telegram saves."""


@dataclass(frozen=True)
class Way:
    """How the words of a split are altered."""

    alter: Callable[[str, random.Random], str]
    wordings: int = 1
    """In how many wordings each task is asked for; where it has fewer, in all of them."""


def typos(text: str, rng: random.Random, count: int) -> str:
    """As many slips of the finger: a neighboring key, a letter left out or twice, two letters in the wrong order."""
    for _ in range(count):
        places = [i for i in range(1, len(text)) if text[i].isalpha() and text[i - 1].isalpha()]
        if not places:
            return text
        i, slip = rng.choice(places), rng.randrange(4)
        written = (_neighbor(text[i], rng), "", 2 * text[i], text[i])[slip]
        text = text[: i - 1] + text[i] + text[i - 1] + text[i + 1 :] if slip == 3 else text[:i] + written + text[i + 1 :]
    return text


def chatter(text: str, rng: random.Random) -> str:
    """The request amid polite talk."""
    return f"{rng.choice(OPENINGS)} {text} {rng.choice(CLOSINGS)}"


def lower_case(text: str, rng: random.Random) -> str:
    """Without capitals and without punctuation but what stands inside words."""
    words = (word.strip(string.punctuation) or word for word in text.lower().split())
    return " ".join(words)


def telegraphic(text: str, rng: random.Random) -> str:
    """Without articles, pronouns, auxiliaries and the like; a text of nothing else stays."""
    kept = [word for word in text.split() if word.strip(string.punctuation).lower() not in FILLERS]
    return " ".join(kept) or text


def as_it_is(text: str, rng: random.Random) -> str:
    """No alteration."""
    return text


WAYS: dict[str, Way] = {
    "": Way(as_it_is),
    "one_typo": Way(lambda text, rng: typos(text, rng, 1)),
    "three_typos": Way(lambda text, rng: typos(text, rng, 3)),
    "chatter": Way(chatter),
    "lower_case": Way(lower_case),
    "telegraphic": Way(telegraphic),
    "paraphrases": Way(as_it_is, wordings=8),
}
"""Ways of asking by name; the nameless one is the suite's first wording."""


def parse_split(name: str) -> tuple[str, Way, str]:
    """The tasks and the way a split's name stands for, and the further set of test examples, if it names one; see `check_split`."""
    tasks, _, way = name.partition("+")
    return tasks, WAYS.get(way, WAYS[""]), "" if way in WAYS else way


def check_split(name: str, suite: TaskSuite) -> None:
    """InputError when a suite has no such tasks, or there is neither such a way nor such a set of test examples."""
    tasks, plus, way = name.partition("+")
    if tasks not in {*SPLITS, *suite.splits}:
        raise InputError(f"unknown split {name!r}; choose from {', '.join(suite.splits)}")
    known = [*filter(None, WAYS), *suite.further_tests]
    if plus and way not in known:
        near = difflib.get_close_matches(way, known, n=1)
        hint = f"did you mean {tasks}+{near[0]}? " if near else ""
        raise InputError(f"unknown split {name!r}; {hint}after the plus sign stands one of {', '.join(known)}")


def _neighbor(letter: str, rng: random.Random) -> str:
    """A key beside the letter's on the keyboard; letters it lacks stay."""
    row = next((row for row in KEYS if letter.lower() in row), "")
    if not row:
        return letter
    i = row.index(letter.lower())
    found = rng.choice([row[k] for k in (i - 1, i + 1) if 0 <= k < len(row)])
    return found.upper() if letter.isupper() else found
