"""Tasks that have no teacher: what a LoRA that reads the request answers, generated adapters learn to answer without reading it.

The guide is one LoRA for all tasks that training knows, told what is wanted before each input. It pays for the request at every query,
and in turn holds for tasks it never saw; its answers to these are labels for whatever somebody can ask for.

Letters: K adapters of a part of a step.

Source: context distillation, Snell, Klein and Zhong 2022, arXiv:2209.15189.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch, answered
from llgbm.delta.behavior import Predictions, observe
from llgbm.errors import InputError
from llgbm.functional_lora import complete
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import Evidence, mean_per_adapter, token_kl
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.models.generator import LoRAGenerator
from llgbm.multitask import multitask_adapter, told
from llgbm.training.conditions import ConditionTable
from llgbm.training.plan import StepPlan
from llgbm.training.setup import Setup
from llgbm.training.targets import owners
from llgbm.transfer import to_device
from llgbm.zoo.folder import Teacher
from llgbm.zoo.suite import SEEN, Example, Task, TaskSuite
from llgbm.zoo.suites import load_suite

KEPT = "cache"
"""Folder of an `output_dir` where the guide is kept, which `llgbm evaluate` looks at too."""
UNSAID = "?"
"""Stands for an answer not given yet, or an empty one."""
REFERENCES = 32
"""Further tasks on which the base is compared with the guide, to scale the term."""


@dataclass(frozen=True)
class Asked:
    """One input of a further task, and the words in which the guide is told what to do with it."""

    task: int
    sentence: str
    input: str


class Context:
    """One further task for each adapter of a step, and how the guide answers an input of it.

    Raises:
        InputError: No suite of further tasks, one that tests, one in another frame, or none that is left.
    """

    def __init__(
        self, setup: Setup, config: ExperimentConfig, network: LoRAGenerator | AttributeGenerator, say: Callable[[str], None]
    ) -> None:
        self.functional, self.network, self.top_k = setup.functional, network, config.training.kl_top_k
        self.framing, self.roomy = setup.framing, setup.roomy_framing
        self.longest = int(setup.train.examples.predicts.sum(1).max())
        known = further_tasks(config.training.further_tasks, setup.zoo.suite)
        fitting = {task.name: self._fitting(task) for task in known}
        self.tasks = [task for task in known if fitting[task.name]]
        if not self.tasks:
            raise InputError(f"training.further_tasks {config.training.further_tasks}: no input fits in beside its request")
        self.inputs = [fitting[task.name] for task in self.tasks]
        self.conditions = ConditionTable.of(config, self.tasks, setup.encoder)
        self.levels = network.levels([task.attributes for task in self.tasks]) if isinstance(network, AttributeGenerator) else None
        first: dict[str, Teacher] = {}
        for teacher in setup.train.teachers:
            first.setdefault(teacher.task, teacher)
        self.guide = multitask_adapter(
            setup,
            list(first.values()),
            instructed=True,
            cache_dir=Path(config.output_dir) / KEPT,
            on_step=lambda step, _, loss: say(f"a LoRA that reads requests, step {step}, loss {loss:.3g}"),
        ).detach()
        self.scale = self._distance_of_base()

    def fill(self, evidence: Evidence, part: StepPlan) -> None:
        """Write an adapter for each of the part's further tasks, and lay its answers beside the guide's."""
        asked = [self._asked(random.Random(f"{seed}/further")) for seed in part.condition_seeds]
        batch, evidence.guidance = self._answered(asked)
        factors = self._written([one.task for one in asked], part.condition_seeds)
        out = self.functional(factors, batch.input_ids, logits_at=batch.predicts, chunked=True)
        evidence.guided, evidence.guided_by = out.any_logits, owners(batch, 1)
        evidence.scale = {**evidence.scale, "context": self.scale}

    def _written(self, tasks: Sequence[int], seeds: Sequence[str]) -> LoRAFactors:
        names, device = [self.tasks[k].name for k in tasks], self.functional.device
        embeddings, mask = (to_device(x, device) for x in self.conditions.draw(names, [f"{seed}/further" for seed in seeds]))
        if isinstance(self.network, AttributeGenerator):
            assert self.levels is not None
            return self.network(embeddings, mask, told=to_device(self.levels[list(tasks)], device))
        return self.network(embeddings, mask)

    def _asked(self, rng: random.Random, task: int | None = None) -> Asked:
        k = rng.randrange(len(self.tasks)) if task is None else task
        return Asked(k, rng.choice([self.tasks[k].description, *self.tasks[k].paraphrases]), rng.choice(self.inputs[k]))

    @torch.no_grad()
    def _answered(self, asked: Sequence[Asked]) -> tuple[TokenBatch, Predictions]:
        """Inputs alone with the guide's answers, and what it predicts at the answers' tokens, where the base is."""
        instructed = [told(one.sentence, Example(one.input, UNSAID)) for one in asked]
        said = complete(self.functional, self.guide, self.roomy, [example.input for example in instructed], self.longest)
        full = [Example(one.input, text or UNSAID) for one, text in zip(instructed, said, strict=True)]
        answers = [self.roomy.answer(example)[: self.longest] for example in full]
        read = answered(zip([self.roomy.prompt(one.input) for one in instructed], answers, strict=True), self.framing.pad)
        own = answered(zip([self.framing.prompt(one.input) for one in asked], answers, strict=True), self.framing.pad)
        seen = read.to(self.functional.device)
        found = observe(self.functional, self.guide, seen.input_ids, seen.predicts, predictions=True, top_k=self.top_k).predictions
        assert found is not None
        return own.to(self.functional.device), found

    def _fitting(self, task: Task) -> list[str]:
        """The task's train inputs that leave room for an answer, after its longest request too."""
        longest = max((task.description, *task.paraphrases), key=len)
        return [one.input for one in task.train if self._leaves_room(one, longest)]

    def _leaves_room(self, example: Example, sentence: str) -> bool:
        prompts = ((self.framing, example.input), (self.roomy, told(sentence, example).input))
        return all(f.max_length is None or len(f.prompt(text)) + self.longest <= f.max_length for f, text in prompts)

    @torch.no_grad()
    def _distance_of_base(self) -> float:
        """The term's raw value for the zero adapter."""
        rng = random.Random("references")
        chosen = rng.sample(range(len(self.tasks)), min(REFERENCES, len(self.tasks)))
        batch, guidance = self._answered([self._asked(rng, k) for k in chosen])
        logits = self.functional(None, batch.input_ids, logits_at=batch.predicts, chunked=True).any_logits
        assert logits is not None
        distance: Tensor = mean_per_adapter(token_kl(guidance, logits), owners(batch, 1), len(chosen)).mean()
        return float(distance) or 1.0


def further_tasks(source: str | None, known: TaskSuite) -> list[Task]:
    """Tasks of a suite's split `seen` that another one lacks.

    Raises:
        InputError: No suite is named, it frames examples otherwise, none of its tasks is new, or one of them asks for what a task that
            only tests does.
    """
    if source is None:
        raise InputError("objective.context has a weight, but training.further_tasks names no suite; name one, or weigh it 0")
    suite = load_suite(source)
    if suite.header != known.header:
        raise InputError(
            f"training.further_tasks {source}: frames examples otherwise than suite {known.name}, on which the base answers them"
        )
    further = [task for task in suite.select(split=SEEN) if task.name not in known.tasks]
    tested = {tuple(sorted(task.attributes.items())): task.name for task in known if task.split != SEEN and task.attributes}
    for task in further:
        test = tested.get(tuple(sorted(task.attributes.items())))
        if test is not None:
            raise InputError(
                f"training.further_tasks {source}: task {task.name} asks for what {test} of split {known[test].split} tests; leave it out"
            )
    if not further:
        raise InputError(f"training.further_tasks {source}: has no task of split {SEEN} that suite {known.name} lacks")
    return further
