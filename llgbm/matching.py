"""Exact match of what is said, not of how it is spelled in tokens.

An answer is right when greedy decoding ends and its text equals the expected one, both in Unicode's NFC, without space at the
ends and with every run of white space as one blank. Teacher forcing decides nearly every row: one that follows the expected
tokens to the end is right, and one whose first other token can no longer become the expected text is wrong. Only the rest,
such as other pieces of the same word, another end token or a blank more, is decoded.
"""

import dataclasses
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llgbm.dataset import TokenBatch
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, greedy_decode
from llgbm.functional_lora.decoding import padded_left
from llgbm.functional_lora.families import COUNT_PADDING
from llgbm.functional_lora.measure import comfortable_rows, rows_at_once
from llgbm.lora.factors import LoRAFactors
from llgbm.scoring import Score, score_each

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for a character of which some bytes are missing."""
SLACK = 8
"""Tokens an answer may take beyond the bytes of its text: blanks and its end."""


def normalized(text: str) -> str:
    """The text as answers are compared."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def score_answers(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    batches: Sequence[TokenBatch],
    framing: Framing,
) -> list[Score]:
    """`score_each`, with `exact` by text; likelihoods are of the expected tokens.

    Raises:
        InputError: As `score_each`.
    """
    scores = score_each(functional, factors, batches, framing.pad)
    open_rows = [row for k, (batch, score) in enumerate(zip(batches, scores, strict=True)) for row in _undecided(k, batch, score, framing)]
    exact = [score.exact.clone() for score in scores]
    for row, said in zip(open_rows, say(functional, factors, open_rows, framing, _may_become), strict=True):
        exact[row.batch][row.row] = said.finished and normalized(said.text) == normalized(row.expected)
    return [dataclasses.replace(score, exact=right, marks=right.float()) for score, right in zip(scores, exact, strict=True)]


@dataclass(frozen=True)
class Asked:
    """A row that is to be decoded."""

    batch: int
    row: int
    prompt: list[int]
    expected: str
    limit: int
    """Tokens an answer may take."""


@dataclass(frozen=True)
class Said:
    """What greedy decoding says."""

    text: str
    finished: bool
    """Whether it ended by itself."""


def asked_row(k: int, row: int, prompt: list[int], expected: str, framing: Framing, least: int = 0) -> Asked:
    """Row `row` of batch `k`, with room for the expected answer in the smallest tokens and a little more, or for `least` tokens."""
    room = framing.room(prompt, max(len(expected.encode()) + SLACK, least))
    return Asked(k, row, prompt, expected, room)


def _undecided(k: int, batch: TokenBatch, score: Score, framing: Framing) -> Iterator[Asked]:
    assert score.strays is not None
    answers = batch.answers()
    for row in (~score.exact).nonzero()[:, 0].tolist():
        tokens, (place, said) = answers[row], score.strays[row].tolist()
        expected = framing.text(tokens)
        if _may_become(expected, [*tokens[:place], said], framing):
            yield asked_row(k, row, batch.prompt(row), expected, framing)


def _may_become(expected: str, said: list[int], framing: Framing) -> bool:
    """Whether what was said can be the beginning of the expected text, or is it where it ends."""
    whole = normalized(expected)
    if said[-1] in framing.ends:
        return normalized(framing.text(said[:-1])) == whole
    begun = normalized(framing.text(said).rstrip(UNFINISHED))
    return unicodedata.normalize("NFD", whole).startswith(unicodedata.normalize("NFD", begun))


def say(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    rows: Sequence[Asked],
    framing: Framing,
    goes_on: Callable[[str, list[int], Framing], bool] | None = None,
) -> list[Said]:
    """Decode each row greedily, prompts of like length together.

    Args:
        functional: The wrapped base.
        factors: One adapter per batch that rows name; None asks the base.
        rows: What is asked.
        framing: Turns tokens into text.
        goes_on: From the expected answer, the tokens so far and the framing: whether it is worth going on.
    """
    kind = functional.model.config.model_type
    said: dict[int, Said] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt))
    groups = itertools.groupby(order, key=lambda i: len(rows[i].prompt) if kind in COUNT_PADDING else 0)
    for group in (list(group) for _, group in groups):
        tokens = max(len(rows[i].prompt) + rows[i].limit for i in group)
        most = min(len(group), comfortable_rows(functional, tokens))

        def work(block: range, _: range, group: list[int] = group) -> list[Said]:
            return _say_together(functional, factors, [rows[group[i]] for i in block], framing, goes_on)

        blocks = functional.memory.run("decoding", len(group), 1, rows_at_once(functional, "decoding", tokens, most, answers=1), work)
        said |= dict(zip(group, itertools.chain.from_iterable(blocks), strict=True))
    return [said[i] for i in range(len(rows))]


def _say_together(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    rows: Sequence[Asked],
    framing: Framing,
    goes_on: Callable[[str, list[int], Framing], bool] | None,
) -> list[Said]:
    """Decode some rows together; each is left as soon as it is of no use, or has used up its room."""
    ids, mask = (part.to(functional.device) for part in padded_left([row.prompt for row in rows], framing.pad))
    if factors is not None:
        factors = factors.select([row.batch for row in rows]).to(device=functional.device)

    given_up: set[int] = set()  # every other row has ended

    def hopeless(i: int, said: list[int]) -> bool:
        if len(said) >= rows[i].limit or not (goes_on is None or goes_on(rows[i].expected, said, framing)):
            given_up.add(i)
        return i in given_up

    limit = max(row.limit for row in rows)
    new = greedy_decode(functional, factors, ids, mask, limit, framing.ends, framing.pad, hopeless=hopeless).tolist()
    return [Said(framing.text(tokens[: row.limit]), i not in given_up) for i, (tokens, row) in enumerate(zip(new, rows, strict=True))]
