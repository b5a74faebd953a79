"""What MicroZoo's tasks are made of: per domain three independent attributes, each value with its rule.

A task is one value of each attribute: an *operation* on the payload, a *style* of the result, and a *wrapper* around it.
`answer = wrapper(style(operation(payload)))`, so an answer is right only when all three are.

How people say each value is in `wordings.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llgbm.zoo.micro.things import RELATIONS, THINGS


@dataclass(frozen=True)
class Value:
    """One value of an attribute.

    `apply` maps the list of symbols (operations, styles) or the finished text (wrappers) to its new form.
    """

    name: str
    apply: Callable


@dataclass(frozen=True)
class Domain:
    """A domain: how payloads look, and the values of its three attributes."""

    name: str
    operations: tuple[Value, ...]
    styles: tuple[Value, ...]
    symbols: tuple[str, ...]
    payload_length: int
    separator: str = ""
    distinct: bool = False
    """Whether a payload's symbols all differ."""

    def answer(self, symbols: list[str], operation: Value, style: Value, wrapper: Value) -> str:
        """The right answer to a payload given as its list of symbols."""
        return wrapper.apply(style.apply(operation.apply(symbols)))


def _each(rule: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    return lambda symbols: [rule(symbol) for symbol in symbols]


def _digit(rule: Callable[[int], int]) -> Callable[[list[str]], list[str]]:
    return _each(lambda symbol: str(rule(int(symbol)) % 10))


def _running_sum(digits: list[str]) -> list[str]:
    total, sums = 0, []
    for digit in digits:
        total = (total + int(digit)) % 10
        sums.append(str(total))
    return sums


def _shift_letter(step: int) -> Callable[[list[str]], list[str]]:
    return _each(lambda letter: chr((ord(letter) - ord("a") + step) % 26 + ord("a")))


def _swap_pairs(letters: list[str]) -> list[str]:
    swapped = list(letters)
    for i in range(0, len(letters) - 1, 2):
        swapped[i], swapped[i + 1] = letters[i + 1], letters[i]
    return swapped


def _alternating(letters: list[str]) -> str:
    return "".join(letter.upper() if i % 2 else letter for i, letter in enumerate(letters))


def _letters_for_digits(first: str) -> Callable[[list[str]], str]:
    return lambda digits: "".join(chr(ord(first) + int(digit)) for digit in digits)


WRAPPERS = (Value("plain", lambda text: text), Value("brackets", lambda text: f"[{text}]"), Value("stars", lambda text: f"*{text}*"))

MATH = Domain(
    name="math",
    symbols=tuple("0123456789"),
    payload_length=5,
    operations=(
        Value("increment", _digit(lambda d: d + 1)),
        Value("complement", _digit(lambda d: 9 - d)),
        Value("double", _digit(lambda d: 2 * d)),
        Value("running_sum", _running_sum),
        Value("sort_ascending", sorted),
        Value("sort_descending", lambda digits: sorted(digits, reverse=True)),
    ),
    styles=(
        Value("digits", "".join),
        Value("commas", ",".join),
        Value("letters", _letters_for_digits("a")),
        Value("capitals", _letters_for_digits("A")),
    ),
)

CODE = Domain(
    name="code",
    symbols=tuple("abcdefghijklmnopqrstuvwxyz"),
    payload_length=5,
    operations=(
        Value("reverse", lambda letters: letters[::-1]),
        Value("rotate_left", lambda letters: letters[1:] + letters[:1]),
        Value("rotate_right", lambda letters: letters[-1:] + letters[:-1]),
        Value("swap_pairs", _swap_pairs),
        Value("next_letter", _shift_letter(1)),
        Value("previous_letter", _shift_letter(-1)),
    ),
    styles=(
        Value("lower", "".join),
        Value("upper", lambda letters: "".join(letters).upper()),
        Value("capitalized", lambda letters: "".join(letters).capitalize()),
        Value("alternating", _alternating),
    ),
)


def _look_up(relation: str) -> Callable[[list[str]], list[str]]:
    return _each(lambda thing: THINGS[thing][RELATIONS.index(relation)])


COMMONSENSE = Domain(
    name="commonsense",
    symbols=tuple(THINGS),
    payload_length=3,
    separator=" ",
    distinct=True,
    operations=tuple(Value(relation, _look_up(relation)) for relation in RELATIONS),
    styles=(
        Value("first", lambda words: words[0]),
        Value("middle", lambda words: words[1]),
        Value("last", lambda words: words[2]),
        Value("ends", lambda words: f"{words[0]} {words[2]}"),
    ),
)

DOMAINS = (MATH, CODE, COMMONSENSE)
