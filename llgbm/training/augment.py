"""Texts as hurried or talkative people write them: typos, chatter around the request, lower case, no punctuation.

Training reads some of its texts so. No benchmark takes its own phrases from here: what a test adds to a request is kept apart,
with the test, or a generator would be asked only for what it was trained on.
"""

import random
import string

BEFORE = (
    "Hi there!",
    "Hello, I hope you are well.",
    "Quick question:",
    "Thanks in advance.",
    "I need a hand with something.",
    "This is for a project of mine.",
    "If it is not too much trouble:",
    "We talked about this last week.",
)
AFTER = (
    "Thank you!",
    "Thanks a lot for the help.",
    "Let me know if anything is unclear.",
    "No hurry.",
    "That is all for today.",
    "Best regards, Sam",
    "I will check it later.",
    "Much appreciated.",
)
MOST_TYPOS = 3


def altered(text: str, seed: str) -> str:
    """The text with at least one alteration; a function of text and seed."""
    rng = random.Random(f"{seed}/{text}")
    talkative, hurried, careless = (rng.random() < 0.5 for _ in range(3))
    if talkative:
        text = " ".join([*rng.sample(BEFORE, rng.randint(0, 2)), text, *rng.sample(AFTER, rng.randint(0, 1))])
    if hurried:
        text = text.lower()
        text = "".join(" " if c in string.punctuation else c for c in text) if rng.random() < 0.5 else text
    if careless or not (talkative or hurried):
        for _ in range(rng.randint(1, MOST_TYPOS)):
            text = with_typo(text, rng)
    return text


def with_typo(text: str, rng: random.Random) -> str:
    """One letter replaced, left out, followed by another one, or swapped with the next character; a text without letters stays."""
    letters = [i for i, c in enumerate(text) if c.isalpha()]
    if not letters:
        return text
    i, other = rng.choice(letters), rng.choice(string.ascii_lowercase)
    here, following = text[i], text[i + 1 : i + 2]
    written = rng.choice((other + following, following, here + other + following, following + here))
    return text[:i] + written + text[i + 2 :]
