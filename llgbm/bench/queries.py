"""`llgbm bench queries`: what a query costs by each way of telling a base its task.

A written adapter costs its products and no token; a sentence and demonstrations are read at every query. Each way answers as many
tokens, greedily, one query at a time and in batches in which every query has a task, and an adapter, of its own.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from llgbm.bench.clock import timed
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.evaluation.instructed import instructed_tokens
from llgbm.evaluation.setting import EvaluationConfig, Question, Setting, load_setting
from llgbm.functional_lora import greedy_decode
from llgbm.functional_lora.decoding import padded_left
from llgbm.lora.factors import LoRAFactors
from llgbm.zoo.base import BaseOptions
from llgbm.zoo.suite import SEEN

NEW_TOKENS = 8
"""Of every answer."""
ADAPTER = "an adapter"
Read = Callable[[Setting, Question], TokenBatch]
WAYS: dict[str, tuple[Read, bool]] = {
    ADAPTER: (lambda setting, question: setting.tokens(question.task), True),
    "nothing": (lambda setting, question: setting.tokens(question.task), False),
    "the sentence": (instructed_tokens, False),
    "the sentence, and an adapter that reads it": (instructed_tokens, True),
    "demonstrations": (lambda setting, question: setting.demonstrated(question.task), False),
    "the sentence and demonstrations": (lambda setting, question: instructed_tokens(setting, question, demonstrated=True), False),
}
"""What tells the task -> what the base reads, and whether an adapter works beside it."""


@torch.no_grad()
def bench_queries(config: ExperimentConfig, sizes: Sequence[int] = (1, 16), rounds: int = 5) -> dict[str, Any]:
    """Milliseconds a query of every way at every batch size, and how many times as long it takes as with an adapter.

    Times are medians over rounds, each of which asks the same queries once in every way; ratios are medians of those within a round.

    Raises:
        InputError: The zoo has fewer seen tasks than the largest batch, or a sentence and an example are more than the base reads.
    """
    base = BaseOptions.place(config.model)
    setting = load_setting(None, config.checkpoint_folder, EvaluationConfig(max_examples=1, base=base))
    questions = setting.questions(SEEN)[: max(sizes)]
    if len(questions) < max(sizes):
        raise InputError(f"zoo {setting.zoo.folder} has {len(questions)} seen tasks, fewer than the {max(sizes)} to ask together")
    factors = setting.zoo.factors([setting.teachers[question.task.name] for question in questions])
    prompts = {way: [read(setting, question).prompt(0) for question in questions] for way, (read, _) in WAYS.items()}
    rows = []
    for size in sizes:
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        parts = [slice(start, start + size) for start in range(0, len(questions) - size + 1, size)]
        for _ in range(rounds):
            for way, (_, adapted) in WAYS.items():
                work = [(prompts[way][part], factors.select(range(part.start, part.stop)) if adapted else None) for part in parts]
                spent = sum(timed(lambda asked=asked: _answer(setting, *asked))[1] for asked in work)
                seconds[way].append(spent / (size * len(parts)))
        for way in WAYS:
            rows.append(
                {
                    "told by": way,
                    "batch": size,
                    "tokens_read": statistics.mean(map(len, prompts[way])),
                    "ms": 1000 * statistics.median(seconds[way]),
                    "times_an_adapter": statistics.median(a / b for a, b in zip(seconds[way], seconds[ADAPTER], strict=True)),
                }
            )
    return {"new_tokens": NEW_TOKENS, "rows": rows}


def _answer(setting: Setting, prompts: Sequence[Sequence[int]], factors: LoRAFactors | None) -> None:
    device = setting.functional.device
    ids, mask = (part.to(device) for part in padded_left(prompts, setting.pad_token_id))
    adapters = None if factors is None else factors.to(device=device)
    greedy_decode(setting.functional, adapters, ids, mask, NEW_TOKENS, (), setting.pad_token_id)
