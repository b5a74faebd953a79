"""Model cards as the Hugging Face hub reads them: base, licence, scores, and what was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llgbm.zoo.named import name_on_hub

CARD_FILE = "README.md"


@dataclass(frozen=True)
class PublishedScore:
    """One figure of a card."""

    task: str
    metric: str
    value: float
    n: int
    """Examples it is over."""


def completed(card: str, repo_id: str, base_name: str | None, library: str, licence: str, scores: Sequence[PublishedScore] = ()) -> str:
    """A card with what the hub indexes it by.

    Args:
        card: With or without a header of its own, which is kept but for what stands here.
        repo_id: Where it will stand.
        base_name: Of the base; left out where it is no name of the hub's.
        library: Which loads it.
        licence: As the hub abbreviates it: mit, apache-2.0.
        scores: Also set below the text as a table.
    """
    from huggingface_hub import EvalResult, ModelCard

    table = "".join(f"| {score.task} | {score.metric} | {score.value:.3f} | {score.n} |\n" for score in scores)
    below = f"\n| task | metric | value | n |\n|---|---|---|---|\n{table}" if table else ""
    header = "" if card.startswith("---\n") else f"---\nlibrary_name: {library}\n---\n"
    made = ModelCard(header + card + below)
    data: Any = made.data  # a class that is made with its fields, of which type checkers see none
    data.base_model, data.license, data.library_name = name_on_hub(base_name), licence, library
    data.tags = sorted({*(data.tags or []), "lora", "llgbm"})
    if scores:
        data.model_name = repo_id.rpartition("/")[2]
        data.eval_results = [EvalResult("text-generation", score.task, score.task, score.metric, score.value) for score in scores]
    return str(made)
