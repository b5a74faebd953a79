"""What answers are worth by their task's metric: `matching` where that is exact match, else by what is said or by the likeliest option.

What a text metric judges is decoded, except where teacher forcing shows that exactly the expected answer is said, and counts whether or not
it ends. A choice decodes nothing: the likelihood of every option after the question decides, summed over its tokens and the end; of
equally likely ones the first counts.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.dataset import NO_LABEL, TokenBatch, padded
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.matching import Asked, asked_row, normalized, say, score_answers
from llgbm.metrics import METRICS, Metric
from llgbm.scoring import Score, score_each
from llgbm.zoo.suite import Example, Task

ROOM = 256
"""Tokens an answer that is judged by its text may take at least, where the context has them: what counts may come last."""


@dataclass(frozen=True)
class Judge:
    """How the answers to one task are judged."""

    framing: Framing
    metric: Metric
    options: tuple[tuple[int, ...], ...] = ()
    """Of a choice: each option's tokens with the end, as they are spelled after a question of the task."""

    @classmethod
    def of(cls, framing: Framing, task: Task) -> "Judge":
        """The judge of a task."""
        metric = METRICS[task.metric]
        options = task.options if metric.among_options else ()
        question = task.test[0].input if options else ""
        return cls(framing, metric, tuple(tuple(framing.answer(Example(question, option))) for option in options))

    @property
    def exact(self) -> bool:
        """Whether exact match is what counts."""
        return not self.metric.among_options and self.metric.mark is None


def judge_answers(
    functional: FunctionalLoRA, factors: LoRAFactors | None, batches: Sequence[TokenBatch], judges: Sequence[Judge]
) -> list[Score]:
    """`score_answers`, with marks by the metric of each batch's task.

    Args:
        functional: The wrapped base.
        factors: One adapter per batch; None asks the base.
        batches: Of each task, its questions and expected answers.
        judges: One per batch, of one framing.

    Raises:
        InputError: As `score_each`.
    """
    if not batches:
        return []
    framing = judges[0].framing
    scores = score_answers(functional, factors, batches, framing)
    marks = _by_text(functional, factors, batches, scores, judges) | _by_choice(functional, factors, batches, judges)
    return [dataclasses.replace(score, marks=marks[k]) if k in marks else score for k, score in enumerate(scores)]


def judge_each(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    batches: Sequence[TokenBatch],
    judges: Sequence[Judge | None],
    pad_token_id: int,
) -> list[Score]:
    """`judge_answers`, but exact match, by which is judged what has no judge, goes token by token, as in `score_each`."""
    judged = [k for k, one in enumerate(judges) if one is not None and not one.exact]
    plain = [k for k in range(len(batches)) if k not in set(judged)]

    def of(places: list[int]) -> LoRAFactors | None:
        return factors if factors is None or len(places) == len(batches) else factors.select(places)

    found = dict(zip(plain, score_each(functional, of(plain), [batches[k] for k in plain], pad_token_id), strict=True))
    chosen = [one for k in judged if (one := judges[k]) is not None]
    found |= dict(zip(judged, judge_answers(functional, of(judged), [batches[k] for k in judged], chosen), strict=True))
    return [found[k] for k in range(len(batches))]


def _by_text(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    batches: Sequence[TokenBatch],
    scores: Sequence[Score],
    judges: Sequence[Judge],
) -> dict[int, Float[Tensor, " b"]]:
    """Marks of the batches whose metric reads what is said."""
    marks = {k: scores[k].exact.float() for k, judge in enumerate(judges) if judge.metric.mark}
    open_rows = [row for k in marks for row in _not_exact(k, batches[k], scores[k], judges[k].framing)]
    if open_rows:
        for row, said in zip(open_rows, say(functional, factors, open_rows, judges[0].framing), strict=True):
            mark = judges[row.batch].metric.mark
            assert mark is not None
            marks[row.batch][row.row] = mark(said.text, row.expected)
    return marks


def _not_exact(k: int, batch: TokenBatch, score: Score, framing: Framing) -> Iterator[Asked]:
    answers = batch.answers()
    for row in (~score.exact).nonzero()[:, 0].tolist():
        yield asked_row(k, row, batch.prompt(row), framing.text(answers[row]), framing, ROOM)


def _by_choice(
    functional: FunctionalLoRA, factors: LoRAFactors | None, batches: Sequence[TokenBatch], judges: Sequence[Judge]
) -> dict[int, Float[Tensor, " b"]]:
    """Marks of the batches whose metric is the likeliest option."""
    chosen = [k for k, judge in enumerate(judges) if judge.metric.among_options]
    if not chosen:
        return {}
    own = None if factors is None else factors.select(chosen)
    framing = judges[0].framing
    widened = [_with_options(batches[k], judges[k]) for k in chosen]
    likely = score_each(functional, own, widened, framing.pad)
    return {k: _right_choices(batches[k], found, judges[k]) for k, found in zip(chosen, likely, strict=True)}


def _with_options(batch: TokenBatch, judge: Judge) -> TokenBatch:
    """Every option after the question of every row; a question that leaves the longest no room is cut on the left."""
    limit, longest = judge.framing.max_length, max(map(len, judge.options))
    prompts = [batch.prompt(row) for row in range(len(batch))]
    if limit is not None:
        prompts = [judge.framing.cut(prompt, limit - longest) for prompt in prompts]
    pairs = [(prompt, list(option)) for prompt in prompts for option in judge.options]
    labels = [[NO_LABEL] * len(prompt) + option for prompt, option in pairs]
    return padded([prompt + option for prompt, option in pairs], labels, judge.framing.pad)


def _right_choices(batch: TokenBatch, likely: Score, judge: Judge) -> Float[Tensor, " b"]:
    """Whether each row's likeliest option says what is expected."""
    best = likely.nll_sum.view(len(batch), len(judge.options)).argmin(1).tolist()
    texts = [normalized(judge.framing.text(option)) for option in judge.options]
    expected = [normalized(judge.framing.text(answer)) for answer in batch.answers()]
    return torch.tensor([float(texts[i] == answer) for i, answer in zip(best, expected, strict=True)])
