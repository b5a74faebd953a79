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
from accelerate import PartialState
from torch import Tensor

from llgbm.config import ExperimentConfig, LoRAConfig
from llgbm.dataset import TokenBatch, answered
from llgbm.delta.behavior import Predictions, observe
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import Evidence, mean_per_adapter, token_kl
from llgbm.matching import Asked, say
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.models.generator import LoRAGenerator
from llgbm.models.ridge import FOLDS
from llgbm.multitask import is_kept, kept_adapter, kept_under, told, train_multitask
from llgbm.training.conditions import ConditionTable
from llgbm.training.plan import StepPlan
from llgbm.training.processes import from_first, tensors_from_first
from llgbm.training.rereading import WORDINGS, Readable
from llgbm.training.setup import Setup
from llgbm.training.targets import owners
from llgbm.transfer import to_device
from llgbm.zoo.folder import Teacher
from llgbm.zoo.suite import SEEN, UNSAID, Example, Task, TaskSuite
from llgbm.zoo.suites import load_suite

KEPT = "cache"
"""Folder of an `output_dir` where the guide is kept, which `llgbm evaluate` looks at too."""
REFERENCES = 32
"""Further tasks on which the base is compared with the guide, to scale the term."""


@dataclass(frozen=True)
class Request:
    """One input of a further task, and the words in which the guide is told what to do with it."""

    task: int
    sentence: str
    input: str


class Context:
    """One further task for each adapter of a step, and how the guide answers an input of it.

    Args:
        setup: What the run reads.
        config: The run.
        network: Which is trained.
        further: Tasks without teachers, see `further_tasks`.
        progress: Told what is being done.

    Raises:
        InputError: Of none of the further tasks an input fits in beside its request, or is there an attribute that training knows.
    """

    def __init__(
        self,
        setup: Setup,
        config: ExperimentConfig,
        network: LoRAGenerator | AttributeGenerator,
        further: Sequence[Task],
        progress: Callable[[str], None],
    ) -> None:
        self.functional, self.network, self.top_k = setup.functional, network, config.training.kl_top_k
        self.framing, self.roomy = (setup.zoo.framing(setup.base, whole_context=whole, remember=False) for whole in (False, True))
        self.longest = int(setup.train.examples.predicts.sum(1).max())
        source = config.training.further_tasks
        fitting = {task.name: self._fitting(task) for task in further}
        self.tasks = [task for task in further if fitting[task.name]]
        if not self.tasks:
            raise InputError(f"training.further_tasks {source}: no input leaves room for a request and an answer in what the base reads")
        self.levels: Tensor | None = None
        self.conditions: ConditionTable | None = None
        if isinstance(network, AttributeGenerator):
            known = {(name, level) for name, levels in network.spec.attributes.items() for level in levels}
            self.tasks = [task for task in self.tasks if task.attributes and task.attributes.items() <= known]
            if not self.tasks:
                raise InputError(f"training.further_tasks {source}: no task has attributes, all of them levels that tasks trained on have")
            self.levels = network.levels([task.attributes for task in self.tasks])
            if config.training.read_further:
                self.conditions = ConditionTable.of(config, self.tasks, setup.encoder, WORDINGS)
        else:
            self.conditions = ConditionTable.of(config, self.tasks, setup.encoder)
        self.inputs = [fitting[task.name] for task in self.tasks]
        self.guide = _guide(setup, config, progress)
        self.scale = self._distance_of_base()

    def fill(self, evidence: Evidence, part: StepPlan) -> None:
        """Write an adapter for each of the part's further tasks, and lay its answers beside the guide's."""
        requests = [self.request(random.Random(f"{seed}/further")) for seed in part.condition_seeds]
        batch, evidence.guidance = self.answer(requests)
        factors = self.write([one.task for one in requests], [f"{seed}/further/condition" for seed in part.condition_seeds])
        out = self.functional(factors, batch.input_ids, logits_at=batch.predicts, chunked=True)
        evidence.guided, evidence.guided_by = out.any_logits, owners(batch, 1)
        evidence.scale = {**evidence.scale, "context": self.scale}

    def write(self, tasks: Sequence[int], seeds: Sequence[str]) -> LoRAFactors:
        """The network's adapters for further tasks: from their attributes, or from conditions that seeds draw."""
        device = self.functional.device
        if isinstance(self.network, AttributeGenerator):
            assert self.levels is not None
            return self.network.write(to_device(self.levels[list(tasks)], device))
        assert self.conditions is not None
        embeddings, mask = self.conditions.draw([self.tasks[k].name for k in tasks], seeds)
        whole = to_device(torch.full((len(tasks),), FOLDS), device)  # of all tasks trained on, none of which these are
        return self.network(to_device(embeddings, device), to_device(mask, device), folds=whole)

    @property
    def readable(self) -> Readable | None:
        """The tasks, for readers to learn from their requests; None where that was not asked for."""
        if self.levels is None or self.conditions is None:
            return None
        return Readable([task.name for task in self.tasks], self.conditions, self.levels)

    def request(self, rng: random.Random, task: int | None = None) -> Request:
        """An input of a further task, or of this one, in one of its wordings."""
        k = rng.randrange(len(self.tasks)) if task is None else task
        return Request(k, rng.choice(_wordings(self.tasks[k])), rng.choice(self.inputs[k]))

    @torch.no_grad()
    def answer(self, requests: Sequence[Request]) -> tuple[TokenBatch, Predictions]:
        """Inputs alone with the guide's answers, and what it predicts at the answers' tokens, where the base is."""
        instructed = [told(one.sentence, Example(one.input, UNSAID)) for one in requests]
        prompts = [self.roomy.prompt(one.input) for one in instructed]
        asked = [Asked(0, i, prompt, UNSAID, self.longest) for i, prompt in enumerate(prompts)]
        said = [one.text or UNSAID for one in say(self.functional, self.guide, asked, self.roomy)]
        answers = [self.roomy.answer(Example(one.input, text))[: self.longest] for one, text in zip(instructed, said, strict=True)]
        read = answered(zip(prompts, answers, strict=True), self.roomy.pad).to(self.functional.device)
        own = answered(zip([self.framing.prompt(one.input) for one in requests], answers, strict=True), self.framing.pad)
        found = observe(self.functional, self.guide, read.input_ids, read.predicts, predictions=True, top_k=self.top_k).predictions
        assert found is not None
        return own.to(self.functional.device), found

    def _fitting(self, task: Task) -> list[str]:
        """The task's train inputs that leave room for an answer, in every wording of the request too."""
        longest = max(_wordings(task), key=lambda sentence: len(self.roomy.prompt(sentence)))
        return [
            one.input
            for one in task.train
            if self._leaves_room(self.framing, one.input) and self._leaves_room(self.roomy, told(longest, one).input)
        ]

    def _leaves_room(self, framing: Framing, text: str) -> bool:
        return framing.max_length is None or len(framing.prompt(text)) + self.longest <= framing.max_length

    @torch.no_grad()
    def _distance_of_base(self) -> float:
        """The term's raw value for the zero adapter."""
        rng = random.Random("references")
        chosen = rng.sample(range(len(self.tasks)), min(REFERENCES, len(self.tasks)))
        batch, guidance = self.answer([self.request(rng, k) for k in chosen])
        logits = self.functional(None, batch.input_ids, logits_at=batch.predicts, chunked=True).any_logits
        assert logits is not None
        return float(mean_per_adapter(token_kl(guidance, logits), owners(batch, 1), len(chosen)).mean()) or 1.0


def further_tasks(source: str | None, known: TaskSuite) -> list[Task]:
    """Tasks of a suite's split `seen` that another one lacks: of another name, and of other attributes in a domain where there are any.

    What a task is about can be told by its attributes alone, so of tasks without any only the words are compared.

    Raises:
        InputError: No suite is named, it frames examples otherwise, none of its tasks is new, or one has the attributes of a task that
            only tests, a level that only tests, or words of a test.
    """
    if source is None:
        raise InputError("objective.context has a weight, but training.further_tasks names no suite; name one, or weigh it 0")
    suite = load_suite(source)
    if suite.header != known.header:
        raise InputError(
            f"training.further_tasks {source}: frames examples otherwise than suite {known.name}, on which the base answers them"
        )
    taught = {(task.domain, _attributes(task)) for task in known if task.split == SEEN and task.attributes}
    further = [task for task in suite.select(split=SEEN) if task.name not in known.tasks and (task.domain, _attributes(task)) not in taught]
    if not further:
        raise InputError(f"training.further_tasks {source}: has no task of split {SEEN} that suite {known.name} lacks")
    tested = Tested(known)
    for task in further:
        fault = tested.fault(task)
        if fault:
            raise InputError(f"training.further_tasks {source}: task {task.name} {fault}; leave it out")
    return further


class Tested:
    """What of a suite only tests may have: combinations of attributes, levels, and words."""

    def __init__(self, suite: TaskSuite) -> None:
        tests = [task for task in suite if task.split != SEEN]
        self.tasks = {_attributes(task): task for task in tests if task.attributes}
        seen = {level for task in suite if task.split == SEEN for level in _attributes(task)}
        self.levels = {level for task in tests for level in _attributes(task)} - seen
        own = [task for task in tests if not task.parts]  # a mixture is asked for as its parts are
        self.words = {text for task in own for text in (*_wordings(task), *task.prompts)}
        self.words |= {text for task in suite for text in (*task.unseen_paraphrases, *task.unseen_prompts)}

    def fault(self, task: Task) -> str | None:
        """What a task has of it; None where it has nothing."""
        attributes = _attributes(task)
        same = self.tasks.get(attributes)
        if same is not None:
            return f"asks for what {same.name} of split {same.split} tests"
        level = next((level for level in attributes if level in self.levels), None)
        if level is not None:
            return f"has {level[0]} {level[1]}, which only tests have"
        said = next((text for text in (*_wordings(task), *task.prompts) if text in self.words), None)
        return None if said is None else f"says {said[:60]!r}, as a test does"


def _guide(setup: Setup, config: ExperimentConfig, progress: Callable[[str], None]) -> LoRAFactors:
    """The LoRA that reads requests, of the tasks trained on alone; trained, or as it was kept; the first process's in every process."""
    by_task: dict[str, Teacher] = {}
    for teacher in setup.train.teachers:
        by_task.setdefault(teacher.task, teacher)
    teachers, is_first = list(by_task.values()), PartialState().is_main_process
    folder = kept_under(Path(config.output_dir) / KEPT, setup, teachers, instructed=True)
    device, own = setup.functional.device, None
    if not from_first(lambda: is_kept(folder)):  # all train it, and nobody waits longer than the first one takes
        own = train_multitask(
            setup,
            teachers,
            instructed=True,
            folder=folder if is_first else None,
            on_step=lambda step, _, loss: progress(f"a LoRA that reads requests, step {step}, loss {loss:.3g}"),
            agree=lambda read: tensors_from_first(read, device),
        )
    elif is_first:
        own = kept_adapter(setup, folder)

    def read() -> dict[str, Tensor]:
        assert own is not None  # the first process has it
        return {f"{side}/{name}": tensor.detach() for side, part in (("a", own.a), ("b", own.b)) for name, tensor in part.items()}

    shared = tensors_from_first(read, device)
    lora = LoRAConfig(**setup.zoo.manifest["lora"])
    guide = LoRAFactors.zeros(setup.functional.shapes, lora.rank, lora.alpha)
    guide.a, guide.b = ({name: shared[f"{side}/{name}"] for name in guide.module_names} for side in ("a", "b"))
    return guide.to(device=device)


def _attributes(task: Task) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(task.attributes.items()))


def _wordings(task: Task) -> list[str]:
    return [task.description, *task.paraphrases]
