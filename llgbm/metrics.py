"""By what measure the answers of a task are judged: each gives an answer a mark from 0 to 1."""

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+", re.ASCII)


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        mark: What an answer's text is worth beside the expected one's; None where no text decides.
        among_options: Nothing is decoded: right is who finds the expected answer the likeliest of the task's options.
    """

    mark: Callable[[str, str], float] | None = None
    among_options: bool = False


def normalize_answer(text: str) -> str:
    """An answer as SQuAD 2.0 compares it: lower case, no ASCII punctuation, no English articles, one space between words.

    Punctuation goes before articles, so `a.` is none and `(the)` is nothing. Source: Rajpurkar, Jia, Liang 2018, arXiv:1806.03822.
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(said: str, expected: str) -> float:
    """F1 of the words two normalized answers share; with no word on one side, whether they agree."""
    words, wanted = normalize_answer(said).split(), normalize_answer(expected).split()
    if not words or not wanted:
        return float(words == wanted)
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted))


def last_number(text: str) -> Decimal | None:
    """The last number in decimal figures, commas before every third of them or not; None where there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def numeric(said: str, expected: str) -> float:
    """Whether the last number that is said is the expected answer's last one: 7, 7.0 and `so 7.` are the same."""
    number = last_number(said)
    return float(number is not None and number == last_number(expected))


EXACT_MATCH, NUMERIC = "exact_match", "numeric"
METRICS: dict[str, Metric] = {
    EXACT_MATCH: Metric(),
    "token_f1": Metric(mark=token_f1),
    NUMERIC: Metric(mark=numeric),
    "choice": Metric(among_options=True),
}
"""Measures by name; the first, by which a task is judged that names none, is decided while scoring, see `matching`."""
TITLES = {EXACT_MATCH: "exact match", "token_f1": "token F1", NUMERIC: "right numbers", "choice": "right choices"}
"""As headings call them."""
