"""A generator that reads the attributes of a request, and writes the sum of what each of their levels brings.

A suite may state attributes of its seen tasks (an operation, a style). A regression reads them from the mean vector of a request and the
products of its parts; an alignment knows which words each level brings, which fewer tasks suffice for; one slot of attention for each
attribute reads single words, and what they mean, where the encoder's models say it, which helps in new wordings. What they say adds up,
and is of one domain. An adapter is a sum of effects, which begin at a regression of the teachers' weights (see `effects`) and
are trained by behavior. So a combination that was never seen is written from parts that were.

Letters: K tasks, N vectors per task, E embedding width, H reader width, S attributes, F levels of all attributes,
T teachers, R readers of slots, r rank.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llgbm.lora.factors import LoRAFactors
from llgbm.lora.stored import StoredFactors
from llgbm.models.alignment import WordAlignment
from llgbm.models.common import teacher_sums
from llgbm.models.effects import fit_effects, one_hot
from llgbm.models.encoder import TextEncoder
from llgbm.models.kernel_ridge import KERNELS
from llgbm.models.reader import SIZES, Front
from llgbm.models.reading import CERTAINTY, KERNEL, TEXTS, fit_reading, in_one_domain, text_means
from llgbm.models.ridge import best_b
from llgbm.models.writer import AdapterWriter, GeneratorSpec

TINY = 1e-8
UNIT = 10.0
"""Weights of effects are stored in so many times the teachers' RMS: at the learning rate of a reader they learn too slowly."""
SLOTS_SHARE, SLOTS_SHARE_OF_TOKENS = 0.25, 2.0
"""By how much the log-odds that slots say are multiplied: where they read what the regression reads, too, and where they alone read what
tokens mean."""
SHARPENED = 4.0
"""By how much the log-odds of what was read are multiplied before it is written."""


def usual_readers(of_tokens: bool) -> int:
    """How often slots read, where no number is asked for: of each model's tokens each reader misreads other words, their mean fewer."""
    return 3 if of_tokens else 1


class Effect(nn.Module):
    """A and B of one module: a constant A, and B a mean and what each level adds."""

    unit_a: Tensor
    unit_b: Tensor

    def __init__(self, d_in: int, d_out: int, rank: int, levels: int) -> None:
        super().__init__()
        self.constant_a = nn.Parameter(torch.randn(min(rank, d_in), d_in))
        self.mean_b = nn.Parameter(torch.zeros(d_out, min(rank, d_in)))
        self.of_levels = nn.Parameter(torch.zeros(levels, *self.mean_b.shape))
        self.register_buffer("unit_a", torch.ones(()))
        self.register_buffer("unit_b", torch.ones(()))

    def forward(self, levels: Float[Tensor, "K F"]) -> tuple[Float[Tensor, "K r d_in"], Float[Tensor, "K d_out r"]]:
        """A and B in float32, for how likely each level is."""
        b = self.mean_b + torch.tensordot(levels, self.of_levels, 1)
        return (self.constant_a * self.unit_a).expand(len(levels), -1, -1), b.float() * self.unit_b


class SlotReader(nn.Module):
    """Says the attributes of K tasks, each by what one slot of attention takes from a task's vectors."""

    def __init__(self, width: int, hidden: int, counts: Sequence[int]) -> None:
        super().__init__()
        self.front = Front(width, hidden, len(counts))
        self.namers = nn.ModuleList(_namer(hidden, count) for count in counts)

    def forward(self, vectors: Float[Tensor, "K N e"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K F"]:
        """Log-probabilities of the levels of each attribute, side by side; masked vectors do not count."""
        read = self.front(vectors, mask)
        return torch.cat([namer(read[:, slot]).log_softmax(1) for slot, namer in enumerate(self.namers)], 1)


class AttributeGenerator(AdapterWriter):
    """Reads the embedded texts of K tasks, says their attributes, and writes one LoRA adapter for each task."""

    known: Tensor
    reading: Tensor
    usual: Tensor

    def __init__(self, spec: GeneratorSpec, encoder: TextEncoder | None = None) -> None:
        super().__init__(spec, encoder)
        hidden, rank = SIZES[spec.size].hidden, spec.rank
        self.counts = [len(levels) for levels in spec.attributes.values()]
        widths = spec.token_widths or [spec.embedding_dim]
        self.readers = nn.ModuleList(SlotReader(width, hidden, self.counts) for width in widths for _ in range(spec.readers))
        self.register_buffer("known", torch.zeros(spec.known_texts, spec.text_width))
        self.register_buffer("reading", torch.zeros(spec.known_texts, sum(self.counts)))
        self.register_buffer("usual", torch.zeros(sum(self.counts)))
        self.alignment = WordAlignment(spec.known_words, spec.word_width, self.counts) if spec.known_words else None
        self.effects = nn.ModuleDict(
            {_key(name): Effect(d_in, d_out, rank, sum(self.counts)) for name, (d_in, d_out) in spec.shapes.items()}
        )

    def forward(
        self,
        embeddings: Float[Tensor, "K N E"],
        mask: Bool[Tensor, "K N"],
        again: tuple[Tensor, Tensor] | None = None,
        told: Float[Tensor, "K F"] | None = None,
    ) -> Any:
        """One adapter per row; masked vectors do not count. Factors are float32.

        In training it is `told` the levels, so that effects do not make up for misreading. With `again`, other sets of vectors and their
        mask, returns (factors, what slots say [R K F], what they say of the others [R M F]): one call, so that data-parallel training sees
        every parameter's use.
        """
        factors = self.write(self.decided(self.say(embeddings, mask)) if told is None else told)
        return factors if again is None else (factors, self.by_slots(embeddings, mask), self.by_slots(*again))

    def say(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K F"]:
        """Log-probabilities of the levels of each attribute, side by side.

        What regression, alignment and slots say adds up, the last the less the more of the usual words were found again, and levels are of
        one domain. Of slots, readers of the same vectors count in the mean, and what they read of another model's adds to it.
        """
        words, found = (0.0, 0.0) if self.alignment is None else self.alignment.read(embeddings, mask)
        mean = (embeddings[..., : self.spec.text_width] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        regressed = CERTAINTY * (self.usual + KERNELS[KERNEL](mean @ self.known.T) @ self.reading)
        named = self.by_slots(embeddings, mask).unflatten(0, (-1, self.spec.readers)).mean(1).sum(0)
        return in_one_domain(regressed + found * words + (1 - found) * self.spec.slots_share * named, self.counts, self.spec.homes)

    def by_slots(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "R K F"]:
        """Log-probabilities of the levels of each attribute by every reader alone.

        Readers are trained on this alone: regression and alignment know the tasks by heart, and would leave nothing to learn.
        """
        views = self._views(embeddings, mask)
        return torch.stack([reader(*views[i // self.spec.readers]) for i, reader in enumerate(self.readers)])

    def _views(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> list[tuple[Tensor, Tensor]]:
        """Vectors and mask that readers look at: all, or for each model what tokens mean to it where it has some, or everywhere."""
        if not self.spec.token_widths:
            return [(embeddings, mask)]
        views = []
        for meant in embeddings[..., self.spec.text_width :].split(self.spec.token_widths, -1):
            there = mask & meant.any(-1)
            views.append((meant, torch.where(there.any(1, keepdim=True), there, mask)))
        return views

    def decided(self, said: Float[Tensor, "K F"]) -> Float[Tensor, "K F"]:
        """How likely each level is, with doubts sharpened: halves of two levels' effects do what neither asks."""
        return torch.cat([(SHARPENED * part).softmax(-1) for part in said.split(self.counts, 1)], 1)

    def write(self, levels: Float[Tensor, "K F"]) -> LoRAFactors:
        """One adapter for each row of how likely each level is, as `levels` gives rows that are certain."""
        written = {name: self.effects[_key(name)](levels) for name in self.spec.shapes}
        k, scaling = len(levels), levels.new_full((len(levels),), self.spec.alpha / self.spec.rank, dtype=torch.float32)
        return LoRAFactors(
            a={name: a for name, (a, _) in written.items()},
            b={name: b for name, (_, b) in written.items()},
            scaling=dict.fromkeys(written, scaling),
            ranks={name: (a.shape[1],) * k for name, (a, _) in written.items()},
        )

    def levels(self, attributes: Sequence[dict[str, str]]) -> Float[Tensor, "n F"]:
        """One-hot rows; an attribute that a task lacks, or whose level is unknown, is zero."""
        return one_hot(attributes, self.spec.attributes)

    @torch.no_grad()
    def fit(
        self,
        teachers: LoRAFactors | StoredFactors,
        attributes: Sequence[dict[str, str]],
        texts: Sequence[Sequence[Float[Tensor, "_ E"]]],
    ) -> None:
        """Begin at what regressions say.

        Args:
            teachers: T adapters, which also give scales and the constant A.
            attributes: Those of each teacher's task.
            texts: For each teacher the vectors of each of its task's texts; `spec.known_texts` is how many `known_texts` counts in them,
                `spec.known_words` how many `count_words` does, or 0.
        """
        levels = self.levels(attributes)
        found = fit_reading([text_means(group)[:, : self.spec.text_width] for group in texts], levels, self.counts)
        ridge = found.ridge
        if self.alignment is not None:
            self.alignment.fit(texts, levels)
        self.known.copy_(ridge.rows)
        weights, intercept = ridge.uncentered()
        self.reading.copy_(weights)
        self.usual.copy_(intercept)
        scaling = self.spec.alpha / self.spec.rank
        sums = teacher_sums(teachers, self.spec.shapes, self.spec.rank, scaling)
        constant = {name: found.main_inputs() for name, found in sums.items()}
        best = best_b(teachers, constant, scaling)
        fitted = fit_effects(levels)
        for name, of_module in sums.items():
            effect: Any = self.effects[_key(name)]
            effect.unit_a.fill_(UNIT * max(of_module.mean_square_a**0.5, TINY))
            effect.unit_b.fill_(UNIT * max(of_module.mean_square_b**0.5, TINY))
            effect.constant_a.copy_(constant[name] / effect.unit_a)
            effect.mean_b.copy_(torch.tensordot(fitted.mean, best[name], 1) / effect.unit_b)
            effect.of_levels.copy_(torch.tensordot(fitted.weights, best[name], 1) / effect.unit_b)


def known_texts(texts: Sequence[Sequence[Float[Tensor, "_ E"]]]) -> int:
    """How many texts a generator that is fitted to these keeps, to read others by."""
    return sum(min(TEXTS, len(group)) for group in texts)


def _namer(hidden: int, levels: int) -> nn.Sequential:
    """From what a slot has read to log-odds of levels: none so far, so that reading begins at the regression."""
    last = nn.Linear(hidden, levels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), last)


def _key(name: str) -> str:
    """A module's name as torch allows it for a part of a network."""
    return name.replace(".", "/")
