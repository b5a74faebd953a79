"""Scores for a model card, from the files that evaluations write."""

from pathlib import Path
from typing import Any

from llgbm.errors import InputError
from llgbm.evaluation.lm_eval import BACKEND
from llgbm.files import read_json
from llgbm.models.cards import PublishedScore


def scores_for_card(file: str | Path, *, adapter: str | None = None, generator: str | None = None) -> list[PublishedScore]:
    """What an evaluation says of an adapter or a generator, whichever is given.

    Args:
        file: `eval_lm_<name>.json` for an adapter, `eval_<name>.json` for a generator.
        adapter: The adapter's content hash.
        generator: The hash of the generator's weights.

    Raises:
        InputError: The file is none of these, or holds no score of it.
    """
    document: Any = read_json(file)
    try:
        found = _of_generator(document, generator) if adapter is None else _of_adapter(document, adapter)
    except (AttributeError, KeyError, TypeError):
        found = []
    if not found:
        what = "this generator; give an eval_<name>.json" if adapter is None else "this adapter; give an eval_lm_<name>.json"
        raise InputError(f"{file}: holds no scores of {what} of it")
    return found


def _of_generator(document: dict[str, Any], generator: str | None) -> list[PublishedScore]:
    if document["made"]["inputs"]["generator"] != generator:
        return []
    scored = {split: methods["generated"] for split, methods in document["splits"].items() if "generated" in methods}
    metric = document["metrics"][0] if len(document["metrics"]) == 1 else "score"
    return [PublishedScore(split, metric, row["score"], row["n_examples"]) for split, row in scored.items()]


def _of_adapter(document: dict[str, Any], adapter: str) -> list[PublishedScore]:
    if document["backend"] != BACKEND:
        return []
    asked = next(((row["model"], row["asked"]) for row in document["models"] if row["adapter"] == adapter), None)
    rows = [row for row in document["scores"] if (row["model"], row["asked"]) == asked]
    return [PublishedScore(row["task"], row["metric"], row["value"], row["n"]) for row in rows]
