"""Practice on combinations of attributes that no teacher need have: adapters answer, and are trained to give that answer surely.

An adapter that is a sum of effects is mostly right where its base is sure of the next token, and where it is not sure the effects do not
fit together yet. Its own greedy answers make them fit, for every combination and without a label. What the base alone holds for likely
counts too (`training.practice_prior`): it would not say nonsense. And every few steps all combinations are compared: one that answers as
another does is taught what it says when it steps back from it (see `clashes`).

Letters: K adapters of a part of a step, T teachers, F levels of all attributes.

Source: self-training, Yarowsky 1995, doi:10.3115/981658.981684; entropy minimization, Grandvalet and Bengio 2004.
"""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.dataset import TokenBatch, answered
from llgbm.functional_lora import Logits, complete
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import Evidence, token_nll
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.training.clashes import Answers, Levels, find_clashes
from llgbm.training.plan import StepPlan
from llgbm.training.setup import Setup
from llgbm.training.targets import owners
from llgbm.transfer import to_device
from llgbm.zoo.suite import UNSAID, Example

COMPARED = 128
"""Most combinations of a domain that are compared at a time, drawn anew each time."""
INPUTS = 4
"""Inputs by whose answers they are."""
OFTEN, MOST_OFTEN = 0.05, 0.5
"""Chance of each combination that yields to be practiced instead of one drawn, and of all together."""
TRIES = 8
"""Draws until one has answers of its own."""


class Practice:
    """One input for each adapter of a step, from the domain that its combination belongs to."""

    def __init__(self, setup: Setup, network: AttributeGenerator, levels: Float[Tensor, "T F"], prior: float, interval: int) -> None:
        """Args:
        setup: Base, zoo and the teachers trained on.
        network: Writes the adapters.
        levels: Of the teachers' tasks, one-hot.
        prior: Weight of the base's own log-probabilities beside an adapter's, as it answers.
        interval: Steps between two comparisons; 0 for none.
        """
        self.network, self.functional, train = network, setup.functional, setup.train
        self.framing = setup.zoo.framing(setup.base, remember=False)
        self.parts = levels.split(network.counts, 1)
        self.inputs = [[one.input for one in setup.framing.of_task(task, "train")[: train.per_teacher]] for task in train.tasks]
        self.domains = [task.domain for task in train.tasks]
        self.alike = {domain: [k for k, other in enumerate(self.domains) if other == domain] for domain in self.domains}
        self.taught = {_row(own) for own in levels}
        self.longest = int(train.examples.predicts.sum(1).max())
        self.prior, self.interval = prior, interval
        self.compared: int | None = None
        self.clashes: dict[str, dict[Levels, Levels | None]] = {domain: {} for domain in self.alike}

    def mixed(self, k: int, rng: random.Random) -> Levels:
        """Levels of a teacher's domain, each attribute's taken from a task of its own."""
        return _row(torch.cat([part[rng.choice(self.alike[self.domains[k]])] for part in self.parts]))

    def draw(self, k: int, rng: random.Random) -> Levels:
        """A combination to practice in a teacher's domain: one that yields, or a mixed one that does not answer as another does."""
        clashes = self.clashes[self.domains[k]]
        yielding = [levels for levels, away in clashes.items() if away is not None]
        if rng.random() < min(MOST_OFTEN, OFTEN * len(yielding)):
            return rng.choice(yielding)
        otherwise = self.mixed(k, rng)
        drawn = (self.mixed(k, rng) for _ in range(TRIES))
        return next((levels for levels in drawn if clashes.get(levels, levels) is not None), otherwise)

    def fill(self, evidence: Evidence, part: StepPlan) -> None:
        """Let adapters of mixed attributes answer, and say how sure they are of it."""
        rngs = [random.Random(f"{seed}/practice") for seed in part.condition_seeds]
        drawn = [(self.domains[k], self.draw(k, rng)) for k, rng in zip(part.teachers, rngs, strict=True)]
        inputs = [rng.choice(self.inputs[k]) for k, rng in zip(part.teachers, rngs, strict=True)]
        with torch.no_grad():
            answering = self._write([self.clashes[domain].get(levels) or levels for domain, levels in drawn])
        batch = self._answered(inputs, self._answer(answering, inputs))
        evidence.practiced = self._logits(self._write([levels for _, levels in drawn]), batch)
        evidence.own_answers, evidence.practiced_by = batch.targets, owners(batch, 1)

    @torch.no_grad()
    def compare(self, step: int, at_once: int) -> None:
        """Look for combinations that answer alike, if it is time; so many adapters answer at once."""
        if not self.interval or (self.compared is not None and step - self.compared < self.interval):
            return
        self.compared, rng = step, random.Random(f"{step}/clashes")
        for domain, members in self.alike.items():
            inputs = rng.choices([text for k in members for text in self.inputs[k]], k=INPUTS)
            levels = [sorted({_row(part[k]) for k in members}) for part in self.parts]
            sizes = [len(part) for part in levels]
            count = math.prod(sizes)
            places = range(count) if count <= COMPARED else rng.sample(range(count), COMPARED)
            each = zip(*np.unravel_index(places, sizes), strict=True)
            chosen = [tuple(itertools.chain(*(part[i] for part, i in zip(levels, place, strict=True)))) for place in each]
            said, sure = self._asked(chosen, inputs, at_once)
            self.clashes[domain] = find_clashes(
                chosen, self.taught, said, sure, lambda away, inputs=inputs: self._asked(away, inputs, at_once)[0]
            )

    def state(self) -> dict[str, Any]:
        """What it knows beside the network's weights, as JSON has it."""
        return {"compared": self.compared, "clashes": {domain: list(known.items()) for domain, known in self.clashes.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Know what another one did."""
        self.compared = state["compared"]
        self.clashes = {
            domain: {tuple(levels): None if away is None else tuple(away) for levels, away in known}
            for domain, known in state["clashes"].items()
        }

    def _asked(self, combinations: Sequence[Levels], inputs: Sequence[str], at_once: int) -> tuple[list[Answers], list[float]]:
        """What each says to the inputs, and the log-likelihood of that."""
        said, sure = [], []
        for start in range(0, len(combinations), at_once):
            some = combinations[start : start + at_once]
            factors, rows = self._write(some), [*inputs] * len(some)
            answers = self._answer(factors, rows)
            said += [tuple(answers[k * len(inputs) : (k + 1) * len(inputs)]) for k in range(len(some))]
            batch = self._answered(rows, answers)
            nll = token_nll(self._logits(factors, batch), batch.targets)
            sure += nll.new_zeros(len(some)).index_add(0, owners(batch, len(inputs)), -nll).tolist()
        return said, sure

    def _write(self, levels: Sequence[Levels]) -> LoRAFactors:
        return self.network.write(to_device(torch.tensor(levels), self.functional.device))

    def _answer(self, factors: LoRAFactors, inputs: Sequence[str]) -> list[str]:
        return complete(self.functional, factors, self.framing, inputs, self.longest, self.prior)

    def _answered(self, inputs: Sequence[str], answers: Sequence[str]) -> TokenBatch:
        return answered(map(self._spelled, inputs, answers), self.framing.pad).to(self.functional.device)

    def _spelled(self, text: str, said: str) -> tuple[list[int], list[int]]:
        """An input as `complete` reads it, and its answer with the end, or as much of it as the context has room for."""
        prompt, answer = self.framing.roomy_prompt(text), self.framing.answer(Example(text, said or UNSAID))
        return prompt, answer[: self.framing.room(prompt, len(answer))]

    def _logits(self, factors: LoRAFactors, batch: TokenBatch) -> Logits:
        logits = self.functional(factors, batch.input_ids, logits_at=batch.predicts, chunked=True).any_logits
        assert logits is not None
        return logits


def _row(levels: Tensor) -> Levels:
    return tuple(levels.tolist())
