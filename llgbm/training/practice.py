"""Practice on combinations of attributes that no teacher need have: adapters answer, and are trained to give that answer surely.

An adapter that is a sum of effects is mostly right where its base is sure of the next token, and where it is not sure the effects do not
fit together yet. Its own greedy answers make them fit, for every combination and without a label.

Letters: K adapters of a part of a step, F levels of all attributes.

Source: self-training, Yarowsky 1995, doi:10.3115/981658.981684; entropy minimization, Grandvalet and Bengio 2004.
"""

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.functional_lora import complete
from llgbm.losses import Evidence
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.training.plan import StepPlan
from llgbm.training.setup import Setup
from llgbm.training.targets import owners
from llgbm.transfer import to_device
from llgbm.zoo.suite import UNSAID, Example


class Practice:
    """One input for each adapter of a step, from the domain that its combination belongs to."""

    def __init__(self, setup: Setup, network: AttributeGenerator, levels: Float[Tensor, "T F"]) -> None:
        self.network, self.functional, train = network, setup.functional, setup.train
        self.framing = setup.zoo.framing(setup.base, remember=False)
        self.parts = levels.split(network.counts, 1)
        self.inputs = [[example.input for example in task.train[: train.per_teacher]] for task in train.tasks]
        domains = [task.domain for task in train.tasks]
        self.alike = [[k for k, other in enumerate(domains) if other == domain] for domain in domains]
        self.longest = int(train.examples.predicts.sum(1).max())

    def mixed(self, teachers: Sequence[int], rngs: Sequence[random.Random]) -> Float[Tensor, "K F"]:
        """For each teacher levels of its domain's tasks, each attribute's taken from a task of its own."""
        return torch.stack(
            [torch.cat([part[rng.choice(self.alike[k])] for part in self.parts]) for k, rng in zip(teachers, rngs, strict=True)]
        )

    def fill(self, evidence: Evidence, part: StepPlan) -> None:
        """Let adapters of mixed attributes answer, and say how sure they are of it."""
        rngs = [random.Random(f"{seed}/practice") for seed in part.condition_seeds]
        factors = self.network.write(to_device(self.mixed(part.teachers, rngs), self.functional.device))
        inputs = [rng.choice(self.inputs[k]) for k, rng in zip(part.teachers, rngs, strict=True)]
        answers = complete(self.functional, factors.detach(), self.framing, inputs, self.longest)
        asked = self.framing.batch([Example(*pair) for pair in zip(inputs, (said or UNSAID for said in answers), strict=True)])
        batch = asked.to(self.functional.device)
        out = self.functional(factors, batch.input_ids, logits_at=batch.predicts, chunked=True)
        evidence.practiced, evidence.own_answers, evidence.practiced_by = out.any_logits, batch.targets, owners(batch, 1)
