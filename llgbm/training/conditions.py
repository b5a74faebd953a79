"""What the generator reads in training: each task's texts embedded once, a random choice of them at every step."""

import random
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llgbm.errors import InputError
from llgbm.models.encoder import TextEncoder, encode_cached
from llgbm.models.reader import pad_sets
from llgbm.zoo.suite import Task

CONDITIONS = ("description", "prompts", "both")


class ConditionTable:
    """Embeddings of the tasks' descriptions, paraphrases and prompts, and how a condition is drawn from them."""

    def __init__(self, tasks: Sequence[Task], encoder: TextEncoder, condition: str, max_prompts: int, cache_folder: str) -> None:
        if condition not in CONDITIONS:
            raise InputError(f"generator.condition {condition!r} is unknown; choose one of {', '.join(CONDITIONS)}")
        if max_prompts < 1:
            raise InputError(f"generator.max_prompts is {max_prompts}; give 1 or more")
        bare = next((task.name for task in tasks if condition != "description" and not task.prompts), None)
        if bare is not None:
            raise InputError(f"task {bare} has no prompts; add some to the suite, or set generator.condition to description")
        self.condition, self.max_prompts = condition, max_prompts
        self._texts = {
            task.name: (
                (task.description, *task.paraphrases) if condition != "prompts" else (),
                task.prompts if condition != "description" else (),
            )
            for task in tasks
        }
        flat = [text for texts in self._texts.values() for shown in texts for text in shown]
        self._rows = encode_cached(encoder, flat, cache_folder)

    def draw(self, names: Sequence[str], seeds: Sequence[str]) -> tuple[Float[Tensor, "K N E"], Bool[Tensor, "K N"]]:
        """A random paraphrase, or a random subset of prompts, or (condition `both`) either or both of them."""
        return self._stack([self._draw_texts(name, random.Random(seed)) for name, seed in zip(names, seeds, strict=True)])

    def fixed(self, names: Sequence[str], wording: int = 0) -> tuple[Float[Tensor, "K N E"], Bool[Tensor, "K N"]]:
        """One of the descriptions, `max_prompts` of the prompts, or both: what validation reads. `wording` counts through them."""
        texts = []
        for name in names:
            described, prompts = self._texts[name]
            start = wording * self.max_prompts % max(1, len(prompts))
            shown = prompts[start : start + self.max_prompts]
            texts.append([*([described[wording % len(described)]] if described else []), *shown])
        return self._stack(texts)

    def _draw_texts(self, name: str, rng: random.Random) -> list[str]:
        described, prompts = self._texts[name]
        kind = rng.choice(CONDITIONS) if self.condition == "both" else self.condition
        texts = [] if kind == "prompts" else [rng.choice(described)]
        if kind != "description":
            texts += rng.sample(prompts, rng.randint(1, min(self.max_prompts, len(prompts))))
        return texts

    def _stack(self, texts: list[list[str]]) -> tuple[Tensor, Tensor]:
        return pad_sets([torch.cat([self._rows[text] for text in group]) for group in texts])
