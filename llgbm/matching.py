"""Exact match of what is said, not of how it is spelled in tokens.

An answer is right when greedy decoding ends and its text equals the expected one, both in Unicode's NFC, without space at the
ends and with every run of white space as one blank. Teacher forcing decides nearly every row: one that follows the expected
tokens to the end is right, and one whose first other token can no longer become the expected text is wrong. Only the rest,
such as other pieces of the same word, another end token or a blank more, is decoded.
"""

import dataclasses
import unicodedata
from collections.abc import Sequence

from llgbm.dataset import TokenBatch
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, greedy_decode
from llgbm.functional_lora.decoding import padded_left
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
    return [
        _by_text(functional, None if factors is None else factors.select([k]), batch, score, framing)
        for k, (batch, score) in enumerate(zip(batches, scores, strict=True))
    ]


def _by_text(functional: FunctionalLoRA, factors: LoRAFactors | None, batch: TokenBatch, score: Score, framing: Framing) -> Score:
    assert score.strays is not None
    exact = score.exact.clone()
    answers = batch.targets.cpu().split(score.n_tokens.tolist())
    for row in (~score.exact).nonzero()[:, 0].tolist():
        expected, (place, said) = answers[row].tolist(), score.strays[row].tolist()
        if _may_become(expected, place, said, framing):
            exact[row] = _says(functional, factors, batch.rows([row]), framing.text(expected), framing)
    return dataclasses.replace(score, exact=exact)


def _may_become(expected: list[int], place: int, said: int, framing: Framing) -> bool:
    """Whether the expected tokens before `place`, then `said`, can be the beginning of the expected text."""
    if said in framing.ends:
        return normalized(framing.text(expected[:place])) == normalized(framing.text(expected))
    begun = normalized(framing.text([*expected[:place], said]).rstrip(UNFINISHED))
    whole = normalized(framing.text(expected))
    return unicodedata.normalize("NFD", whole).startswith(unicodedata.normalize("NFD", begun))


def _says(functional: FunctionalLoRA, factors: LoRAFactors | None, row: TokenBatch, expected: str, framing: Framing) -> bool:
    """Whether greedy decoding of one row's prompt ends and gives the expected text."""
    prompt = row.input_ids[0, : int(row.predicts[0].long().argmax()) + 1].tolist()
    ids, mask = (part.to(functional.device) for part in padded_left([prompt], framing.pad))
    factors = None if factors is None else factors.to(device=functional.device)
    limit = len(expected.encode()) + SLACK
    new = greedy_decode(functional, factors, ids, mask, limit, framing.ends, framing.pad, framing.max_length)[0].tolist()
    return not framing.ends.isdisjoint(new) and normalized(framing.text(new)) == normalized(expected)
