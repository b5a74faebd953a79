"""Long contexts as overlapping windows of tokens, and answers as spans of characters again."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import log_expit, log_softmax

from llgbm.errors import InputError
from llgbm.study.squad import Question
from llgbm.study.squad_metrics import NO_ANSWER, score_answer

LONGEST_ANSWER = 30
"""Tokens of an answer, as in the examples of BERT and transformers."""
NONE = -1
"""The position of an answer that is not in the window."""
_LEAST_CONTEXT = 8
"""Tokens of context that a window holds at least beside its overlap."""


@dataclass(frozen=True)
class Window:
    """A question and a part of its context, as tokens."""

    question: int
    """Which one it is of."""
    tokens: list[int]
    offsets: list[tuple[int, int] | None]
    """Characters of the context that each token stands for; None for what is not context."""
    start: int = NONE
    """The answer's first token, where this window holds all of the answer."""
    end: int = NONE
    """Its last token."""


@dataclass(frozen=True)
class Candidate:
    """The best span of a question's context."""

    text: str
    confidence: float
    """Probability that the context has an answer, in [0, 1]: the highest of the windows."""

    def said(self, threshold: float = 0.5) -> str:
        """The text, or NO_ANSWER where the confidence is below the threshold."""
        return self.text if self.confidence >= threshold else NO_ANSWER


def make_windows(questions: Sequence[Question], tokenizer: Any, max_length: int, overlap: int) -> list[Window]:
    """Windows of at most `max_length` tokens, of which neighbors share `overlap` tokens of context.

    Args:
        questions: With one answer or more, the first one is the window's.
        tokenizer: A fast one. A question takes at most half of a window and is cut there.
        max_length: Of question, context and special tokens.
        overlap: Tokens of context.

    Raises:
        InputError: The tokenizer has no offsets, or a window has no room for context beside the overlap.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError("windows need a fast tokenizer, which knows the characters of its tokens; give a base that has a tokenizer.json")
    asked = [_cut(question.question.strip(), tokenizer, max_length // 2) for question in questions]
    longest = max((len(tokens) for tokens in tokenizer(asked, add_special_tokens=False)["input_ids"]), default=0)
    room = max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
    if overlap < 0 or room - overlap < _LEAST_CONTEXT:
        raise InputError(
            f"an overlap of {overlap} tokens does not fit a window of {max_length}, of which a question takes up to {longest}; "
            "make the window longer or the overlap shorter"
        )
    encoded = tokenizer(
        asked,
        [question.context for question in questions],
        truncation="only_second",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return [
        _window(encoded["input_ids"][row], encoded["offset_mapping"][row], encoded.sequence_ids(row), questions[of], of)
        for row, of in enumerate(encoded["overflow_to_sample_mapping"])
    ]


def best_spans(
    questions: Sequence[Question],
    windows: Sequence[Window],
    starts: Sequence[Float[np.ndarray, " _"]],
    ends: Sequence[Float[np.ndarray, " _"]],
    answerable: Sequence[float],
    longest: int = LONGEST_ANSWER,
) -> list[Candidate]:
    """The most probable span of each question over all of its windows.

    A span's probability is that of its start times that of its end times that of the window having an answer, so windows are comparable.

    Args:
        questions: What the windows are of.
        windows: Every question has one or more.
        starts: Of each window, one logit per token; what is not context does not count, and what is beyond the tokens is padding.
        ends: The same for the last token.
        answerable: One logit per window.
        longest: Tokens a span has at most.
    """
    best: dict[int, tuple[float, str]] = {}
    confidence = np.full(len(questions), -np.inf)
    for window, start, end, logit in zip(windows, starts, ends, answerable, strict=True):
        confidence[window.question] = max(confidence[window.question], log_expit(logit))
        score, text = _best_span(window, start, end, questions[window.question].context, longest)
        score += log_expit(logit)
        if window.question not in best or score > best[window.question][0]:
            best[window.question] = (score, text)
    return [Candidate(best[number][1], float(np.exp(confidence[number]))) for number in range(len(questions))]


def choose_threshold(candidates: Sequence[Candidate], answers: Sequence[Sequence[str]]) -> float:
    """The confidence from which an answer is given that has the highest F1 here; use questions of validation.

    Returns:
        In the middle between two confidences, so that rounding changes nothing; the nearest to 0.5 where several are as good.
    """
    levels = sorted({candidate.confidence for candidate in candidates})
    middles = [(low + high) / 2 for low, high in itertools.pairwise(levels)]
    given = np.array([score_answer(one.text, texts)[1] for one, texts in zip(candidates, answers, strict=True)])
    withheld = np.array([score_answer(NO_ANSWER, texts)[1] for texts in answers])
    confidence = np.array([candidate.confidence for candidate in candidates])
    thresholds = sorted([0.0, 0.5, *middles, np.nextafter(1.0, 2.0)], key=lambda level: abs(level - 0.5))
    return float(max(thresholds, key=lambda level: np.where(confidence >= level, given, withheld).sum()))


def _cut(text: str, tokenizer: Any, tokens: int) -> str:
    """A question's first tokens, and a line's end where no special token would part it from the context."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=True, max_length=tokens)["offset_mapping"]
    cut = text[: offsets[-1][1]] if offsets else text
    return cut if tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add() else f"{cut}\n"


def _window(tokens: list[int], offsets: list[tuple[int, int]], sides: list[int | None], question: Question, of: int) -> Window:
    context = [(pair[0], pair[1]) if side == 1 else None for pair, side in zip(offsets, sides, strict=True)]
    start, end = _position(context, question.answers[0]) if question.answers else (NONE, NONE)
    return Window(of, tokens, context, start, end)


def _position(context: list[tuple[int, int] | None], answer: tuple[str, int]) -> tuple[int, int]:
    """First and last token of an answer, or NONE twice where the window has not all of it."""
    begin, stop = answer[1], answer[1] + len(answer[0])
    known = [(place, pair) for place, pair in enumerate(context) if pair is not None and pair[1] > pair[0]]
    if not known or known[0][1][0] > begin or known[-1][1][1] < stop:
        return NONE, NONE
    inside = [place for place, (first, last) in known if last > begin and first < stop]
    return (inside[0], inside[-1]) if inside else (NONE, NONE)


def _best_span(window: Window, start: np.ndarray, end: np.ndarray, context: str, longest: int) -> tuple[float, str]:
    """Log-probability, given that the window has an answer, and text."""
    places = np.array([place for place, pair in enumerate(window.offsets) if pair is not None], dtype=int)
    if not len(places):
        return -np.inf, NO_ANSWER
    scores = log_softmax(start[places].astype(np.float64))[:, None] + log_softmax(end[places].astype(np.float64))[None, :]
    allowed = np.triu(np.ones_like(scores, dtype=bool)) & ~np.triu(np.ones_like(scores, dtype=bool), k=longest)
    scores[~allowed] = -np.inf
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    begin, stop = window.offsets[places[first]], window.offsets[places[last]]
    assert begin is not None
    assert stop is not None
    return float(scores[first, last]), context[begin[0] : stop[1]].strip()
