"""What the generator reads in training: each task's texts embedded once, a random choice of them at every step."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.models.encoder import TextEncoder, encode_cached
from llgbm.models.reader import pad_sets
from llgbm.models.reading import text_means
from llgbm.training.augment import altered
from llgbm.zoo.suite import Task

CONDITIONS = ("description", "prompts", "both")
COPIES = 2
"""Alterations of each text, embedded once like the texts themselves; steps draw from them."""


class ConditionTable:
    """Embeddings of the tasks' descriptions, paraphrases and prompts, and how a condition is drawn from them.

    Args:
        tasks: Whose texts.
        encoder: What embeds them.
        cache_folder: Holds the embeddings.
        condition: One of CONDITIONS.
        max_prompts: Most prompts of one condition.
        augment: Share of the drawn texts that come altered (see `augment.altered`).
        word_dropout: Share of a drawn condition's vectors that are left out.
        most: Sentences of each task that are read, the first ones, and prompts, or as many as a condition has; all if None.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: TextEncoder,
        cache_folder: str,
        *,
        condition: str,
        max_prompts: int,
        augment: float = 0.0,
        word_dropout: float = 0.0,
        most: int | None = None,
    ) -> None:
        if condition not in CONDITIONS:
            raise InputError(f"generator.condition {condition!r} is unknown; choose one of {', '.join(CONDITIONS)}")
        if max_prompts < 1:
            raise InputError(f"generator.max_prompts is {max_prompts}; give 1 or more")
        bare = next((task.name for task in tasks if condition != "description" and not task.prompts), None)
        if bare is not None:
            raise InputError(f"task {bare} has no prompts; add some to the suite, or set generator.condition to description")
        self.condition, self.max_prompts, self.augment, self.word_dropout = condition, max_prompts, augment, word_dropout
        prompts = None if most is None else max(most, max_prompts)
        self._texts = {
            task.name: (
                (task.description, *task.paraphrases)[:most] if condition != "prompts" else (),
                task.prompts[:prompts] if condition != "description" else (),
            )
            for task in tasks
        }
        flat = [text for texts in self._texts.values() for shown in texts for text in shown]
        self._altered = {text: [altered(text, str(copy)) for copy in range(COPIES)] for text in (flat if augment else ())}
        self._rows = encode_cached(encoder, [*flat, *(text for copies in self._altered.values() for text in copies)], cache_folder)

    @classmethod
    def of(cls, config: ExperimentConfig, tasks: Sequence[Task], encoder: TextEncoder, most: int | None = None) -> "ConditionTable":
        """As a run reads the texts of tasks, or the first of them."""
        return cls(
            tasks,
            encoder,
            str(Path(config.output_dir) / "embeddings"),
            condition=config.generator.condition,
            max_prompts=config.generator.max_prompts,
            augment=config.training.augment,
            word_dropout=config.training.word_dropout,
            most=most,
        )

    def draw(self, names: Sequence[str], seeds: Sequence[str]) -> tuple[Float[Tensor, "K N E"], Bool[Tensor, "K N"]]:
        """A random paraphrase, or a random subset of prompts, or (condition `both`) either or both of them."""
        return pad_sets([self.draw_one(name, seed) for name, seed in zip(names, seeds, strict=True)])

    def draw_one(self, name: str, seed: str) -> Float[Tensor, "n E"]:
        """What `draw` draws of one task."""
        rng = random.Random(seed)
        return self._thinned(self._vectors(self._draw_texts(name, rng)), rng)

    def fixed(self, names: Sequence[str], wording: int = 0) -> tuple[Float[Tensor, "K N E"], Bool[Tensor, "K N"]]:
        """One of the descriptions, `max_prompts` of the prompts, or both: what validation reads. `wording` counts through them."""
        texts = []
        for name in names:
            described, prompts = self._texts[name]
            start = wording * self.max_prompts % max(1, len(prompts))
            shown = prompts[start : start + self.max_prompts]
            texts.append([*([described[wording % len(described)]] if described else []), *shown])
        return pad_sets([self._vectors(group) for group in texts])

    def of_task(self, name: str) -> list[Float[Tensor, "_ E"]]:
        """The vectors of each text of a task."""
        return [self._rows[text].float() for shown in self._texts[name] for text in shown]

    def means(self, name: str) -> Float[Tensor, "n E"]:
        """The mean vector of each text of a task."""
        return text_means(self.of_task(name))

    def _draw_texts(self, name: str, rng: random.Random) -> list[str]:
        described, prompts = self._texts[name]
        kind = rng.choice(CONDITIONS) if self.condition == "both" else self.condition
        texts = [] if kind == "prompts" else [rng.choice(described)]
        if kind != "description":
            texts += rng.sample(prompts, rng.randint(1, min(self.max_prompts, len(prompts))))
        return [rng.choice(self._altered[text]) if rng.random() < self.augment else text for text in texts]

    def _vectors(self, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        return torch.cat([self._rows[text].float() for text in texts])  # autocast on the CPU joins no float16

    def _thinned(self, vectors: Float[Tensor, "N E"], rng: random.Random) -> Float[Tensor, "n E"]:
        """Without some of the vectors; one stays at least."""
        if not self.word_dropout:
            return vectors
        kept = [i for i in range(len(vectors)) if rng.random() >= self.word_dropout]
        return vectors[kept or [rng.randrange(len(vectors))]]
