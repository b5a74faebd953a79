"""What MicroZoo's tasks are made of: per domain three independent attributes, each value with its rule and its wordings.

A task is one value of each attribute: an *operation* on the payload, a *style* of the result, and a *wrapper* around it.
`answer = wrapper(style(operation(payload)))`, so an answer is right only when all three are.

Every value carries wordings a user might say. `wordings` are used in training; `unseen_wordings` only ever test.
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
    wordings: tuple[str, ...]
    unseen_wordings: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """A domain: how payloads look, and the values of its three attributes."""

    name: str
    subject: tuple[str, ...]
    unseen_subject: tuple[str, ...]
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


WRAPPERS = (
    Value(
        "plain",
        lambda text: text,
        ("with nothing around it", "without any marks around it", "just the bare result"),
        ("leaving it unwrapped, no marks",),
    ),
    Value(
        "brackets",
        lambda text: f"[{text}]",
        ("in square brackets", "inside brackets", "enclosed by square brackets"),
        ("with a bracket on either side",),
    ),
    Value(
        "stars",
        lambda text: f"*{text}*",
        ("between stars", "with an asterisk on each side", "surrounded by asterisks"),
        ("with a star at both ends",),
    ),
)

MATH = Domain(
    name="math",
    subject=("the digits", "the number's digits", "each digit of the number"),
    unseen_subject=("this row of digits",),
    symbols=tuple("0123456789"),
    payload_length=5,
    operations=(
        Value(
            "increment",
            _digit(lambda d: d + 1),
            ("add one to every digit", "increase each digit by one", "increment each digit"),
            ("raise all the digits by one",),
        ),
        Value(
            "complement",
            _digit(lambda d: 9 - d),
            ("subtract every digit from nine", "take the nines complement", "replace each digit by nine minus it"),
            ("turn every digit into its difference from nine",),
        ),
        Value(
            "double",
            _digit(lambda d: 2 * d),
            ("double every digit", "multiply each digit by two", "take twice each digit"),
            ("make each digit two times as big",),
        ),
        Value(
            "running_sum",
            _running_sum,
            ("give the running sums", "write the cumulative sums", "add the digits up one after another"),
            ("show the cumulative total at every digit",),
        ),
        Value(
            "sort_ascending",
            sorted,
            ("sort the digits in ascending order", "order the digits from small to large", "arrange the digits upwards"),
            ("put the smallest digits first, ascending",),
        ),
        Value(
            "sort_descending",
            lambda digits: sorted(digits, reverse=True),
            ("sort the digits in descending order", "order the digits from large to small", "arrange the digits downwards"),
            ("put the largest digits first, descending",),
        ),
    ),
    styles=(
        Value(
            "digits",
            "".join,
            ("written as plain digits", "as ordinary digits", "in usual digit form"),
            ("shown as normal digits",),
        ),
        Value(
            "commas",
            ",".join,
            ("separated by commas", "with commas between", "as a comma separated list"),
            ("having a comma between neighbors",),
        ),
        Value(
            "letters",
            _letters_for_digits("a"),
            ("as small letters from a to j", "coded with lowercase letters a to j", "in letters, a for zero"),
            ("spelled in lowercase letters a through j",),
        ),
        Value(
            "capitals",
            _letters_for_digits("A"),
            ("as capital letters from A to J", "coded with uppercase letters A to J", "in capitals, A for zero"),
            ("spelled in uppercase capital letters A through J",),
        ),
    ),
)

CODE = Domain(
    name="code",
    subject=("the string", "the identifier", "the variable name"),
    unseen_subject=("this string of characters",),
    symbols=tuple("abcdefghijklmnopqrstuvwxyz"),
    payload_length=5,
    operations=(
        Value(
            "reverse",
            lambda letters: letters[::-1],
            ("reverse the string", "write the string backwards", "flip the order of the characters"),
            ("spell the string in reverse, back to front",),
        ),
        Value(
            "rotate_left",
            lambda letters: letters[1:] + letters[:1],
            ("rotate the string left", "move the first character to the end", "shift the string one place left"),
            ("cycle the characters to the left by one",),
        ),
        Value(
            "rotate_right",
            lambda letters: letters[-1:] + letters[:-1],
            ("rotate the string right", "move the last character to the front", "shift the string one place right"),
            ("cycle the characters to the right by one",),
        ),
        Value(
            "swap_pairs",
            _swap_pairs,
            ("swap neighboring characters in pairs", "exchange every pair of characters", "swap each two adjacent characters"),
            ("interchange adjacent characters pair by pair",),
        ),
        Value(
            "next_letter",
            _shift_letter(1),
            (
                "replace each character by the next letter of the alphabet",
                "advance every character one letter in the alphabet",
                "apply a Caesar shift of plus one",
            ),
            ("substitute the following alphabet letter for each character",),
        ),
        Value(
            "previous_letter",
            _shift_letter(-1),
            (
                "replace each character by the previous letter of the alphabet",
                "move every character back one letter in the alphabet",
                "apply a Caesar shift of minus one",
            ),
            ("substitute the preceding alphabet letter for each character",),
        ),
    ),
    styles=(
        Value("lower", "".join, ("in lowercase", "in lower case letters", "all lowercase"), ("using only lowercase",)),
        Value(
            "upper",
            lambda letters: "".join(letters).upper(),
            ("in uppercase", "in upper case letters", "all uppercase"),
            ("using only uppercase",),
        ),
        Value(
            "capitalized",
            lambda letters: "".join(letters).capitalize(),
            ("with the first letter capitalized", "capitalized", "starting with a capital"),
            ("with an initial capital",),
        ),
        Value(
            "alternating",
            _alternating,
            ("in alternating case", "with every second letter in uppercase", "alternating lower and upper case"),
            ("with case that alternates letter by letter",),
        ),
    ),
)

_RELATION_WORDINGS = {
    "kind": (("name what kind it is", "say which kind of thing it is", "tell its category"), ("give the sort or kind of thing",)),
    "color": (("name its color", "say which color it has", "tell what color it is"), ("give the color it shows",)),
    "home": (("name where it is found", "say where it lives", "tell the place it belongs"), ("give the place where it lives",)),
    "size": (("name its size", "say how big it is", "tell how large it is"), ("give how big its size is",)),
    "act": (("name how it moves", "say what it does", "tell the action it makes"), ("give the action, how it moves",)),
    "feel": (("name how it feels to touch", "say what its surface feels like", "tell its texture"), ("give the feel of touching it",)),
}


def _look_up(relation: str) -> Callable[[list[str]], list[str]]:
    return _each(lambda thing: THINGS[thing][RELATIONS.index(relation)])


COMMONSENSE = Domain(
    name="commonsense",
    subject=("the things", "the words", "the list of things"),
    unseen_subject=("these everyday things",),
    symbols=tuple(THINGS),
    payload_length=3,
    separator=" ",
    distinct=True,
    operations=tuple(Value(r, _look_up(r), *_RELATION_WORDINGS[r]) for r in RELATIONS),
    styles=(
        Value(
            "first",
            lambda w: w[0],
            ("for the first one", "of the first thing", "only for the first"),
            ("for number one in the list, the first",),
        ),
        Value(
            "middle",
            lambda w: w[1],
            ("for the middle one", "of the second thing", "only for the middle"),
            ("for the one in the middle, the second",),
        ),
        Value(
            "last",
            lambda w: w[2],
            ("for the last one", "of the third thing", "only for the last"),
            ("for the final one, the last in the list",),
        ),
        Value(
            "ends",
            lambda w: f"{w[0]} {w[2]}",
            ("for the first and the last one", "of both outer things", "for the two at the ends"),
            ("for both ends, first and last",),
        ),
    ),
)

DOMAINS = (MATH, CODE, COMMONSENSE)
