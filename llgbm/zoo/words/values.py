"""What tasks of the suite `words` are made of: which word is picked, how it is changed, how the answer is dressed.

`answer = dress(change(pick(payload)))`, so an answer is right only when all three are. How people say each value is in `wordings.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llgbm.zoo.words.lexicon import COLOR_OF, COUNTRY_FACTS, OPPOSITE, VERB_FORMS, plural, with_article


@dataclass(frozen=True)
class Item:
    """A word of a payload."""

    word: str
    kind: str


@dataclass(frozen=True)
class Value:
    """One value of an attribute, with its rule."""

    name: str
    apply: Callable
    held: bool = False
    """Whether no seen task has it."""


@dataclass(frozen=True)
class Pick:
    """Which word of a payload is meant, and which changes it can undergo."""

    name: str
    changes: tuple[str, ...]
    place: int | None = None
    """Where it stands; None: wherever the word of this kind is."""
    held: bool = False
    """Whether no seen task has it."""

    def apply(self, items: list[Item]) -> Item | None:
        """The word meant; None in a payload without one."""
        if self.place is not None:
            return items[self.place]
        return next((item for item in items if item.kind == self.name), None)


ANY = ("plain", "capitalized", "initial", "twice")
"""Changes that every word can undergo; a country has its capital already."""
NOUN = ("plural", "article")
PICKS = (
    Pick("first", (*ANY, "kind"), place=0),
    Pick("second", (*ANY, "kind"), place=1),
    Pick("third", (*ANY, "kind"), place=2, held=True),
    Pick("last", (*ANY, "kind"), place=-1),
    Pick("animal", (*ANY, *NOUN)),
    Pick("object", (*ANY, *NOUN)),
    Pick("food", (*ANY, "color_of")),
    Pick("color", ANY),
    Pick("country", ("plain", "initial", "twice", "capital_of", "continent", "people")),
    Pick("verb", (*ANY, "past", "ing")),
    Pick("adjective", (*ANY, "opposite")),
    Pick("job", ("plain", *NOUN), held=True),
)


def _word(rule: Callable[[str], str]) -> Callable[[Item], str]:
    return lambda item: rule(item.word)


CHANGES = (
    Value("plain", _word(str)),
    Value("capitalized", _word(lambda word: word[0].upper() + word[1:])),
    Value("initial", _word(lambda word: word[0])),
    Value("twice", _word(lambda word: f"{word} {word}")),
    Value("kind", lambda item: item.kind),
    Value("plural", _word(plural)),
    Value("article", _word(with_article)),
    Value("color_of", _word(COLOR_OF.__getitem__)),
    Value("capital_of", _word(lambda country: COUNTRY_FACTS[country][0])),
    Value("continent", _word(lambda country: COUNTRY_FACTS[country][1])),
    Value("people", _word(lambda country: COUNTRY_FACTS[country][2])),
    Value("past", _word(lambda verb: VERB_FORMS[verb][0])),
    Value("ing", _word(lambda verb: VERB_FORMS[verb][1]), held=True),
    Value("opposite", _word(OPPOSITE.__getitem__)),
)
DRESSES = (
    Value("bare", lambda text: text),
    Value("brackets", lambda text: f"[{text}]"),
    Value("quotes", lambda text: f'"{text}"'),
    Value("shout", lambda text: f"{text}!"),
    Value("label", lambda text: f"Answer: {text}"),
    Value("sentence", lambda text: f"The answer is {text}."),
    Value("json", lambda text: f'{{"answer": "{text}"}}'),
    Value("parentheses", lambda text: f"({text})", held=True),
)
