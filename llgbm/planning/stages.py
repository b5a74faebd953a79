"""What each stage of an experiment takes: its own step, run once on paper, times how often it is done.

Letters: K adapters, b rows of each, T tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from llgbm.config import ExperimentConfig
from llgbm.delta.engine import adapters_at_once as deltas_at_once
from llgbm.evaluation.methods import METHODS
from llgbm.evaluation.ridge import VALIDATION_EXAMPLES, VALIDATION_TASKS
from llgbm.functional_lora import FunctionalLoRA, recompute_layers
from llgbm.functional_lora.measure import comfortable_rows, logits_bytes, row_bytes, rows_at_once
from llgbm.functional_lora.sharding import shared_bytes
from llgbm.models.kernel_ridge import KERNELS, STRENGTHS
from llgbm.multitask import BATCH_SIZE
from llgbm.planning.paper import PaperMemory, weights_bytes
from llgbm.planning.steps import Generator, Rows, Teachers, forward, reads_base, share_of_layers
from llgbm.planning.work import Work, count
from llgbm.scoring import ADAPTER_COPIES as SCORED_COPIES
from llgbm.training.step import ADAPTER_COPIES, OPTIMIZER_COPIES
from llgbm.zoo.trainer import ADAPTER_COPIES as TEACHER_COPIES
from llgbm.zoo.trainer import MAX_VALIDATION, adapters_at_once

NEEDS = ("needs_predictor", "needs_soft_prompt", "needs_foreign")
"""Of a method that an evaluation scores where it is asked to alone."""
TOLD = 2
"""How long an example is after a request, which is taken to be as long as an example."""
RIDGES = (False, True)
"""Ridges that are chosen by what their adapters do, and whether they read attributes."""


@dataclass(frozen=True)
class Workload:
    """How much there is to do."""

    adapters: int
    """Teachers, all seeds together."""
    learned: int
    """Those of them that a generator learns from: of seen tasks that are not held back."""
    tasks: int
    asked: int
    """Questions of an evaluation to methods that read conditions: the tasks of every split, in its words."""
    answered: int
    """The same to other methods, for whom splits that ask for the same tasks are one."""
    levels: tuple[int, ...]
    """Of each attribute that tasks have which a generator learns from, how many."""
    chat: bool
    """Whether the base is asked by a chat template, so that it can be told what is wanted."""
    tokens: int
    """Of an example with its answer: the longest of those that share a forward, to which the others are padded."""
    answer_tokens: int
    test_examples: int
    """Of each task."""
    probe_tokens: int


@dataclass(frozen=True)
class Stage:
    """One stage, on one of the devices that share its work."""

    name: str
    what: str
    least_bytes: float
    """What it cannot do without, base and all."""
    bytes: float
    """What it takes as planned."""
    work: Work
    """Of the device that has most of it."""
    devices: int
    """How many have some."""


class Planner:
    """Stages of one experiment on one kind of device; used inside `on_paper()`.

    Args:
        functional: The base on paper, new for each stage.
        config: The experiment.
        load: How much of everything.
        devices: How many share the work; each has the base, but for a training that spreads it, and in training the generator.
    """

    def __init__(self, functional: FunctionalLoRA, config: ExperimentConfig, load: Workload, devices: int) -> None:
        self.functional, self.config, self.load, self.devices = functional, config, load, devices
        self.base_bytes = weights_bytes(functional)
        rank = max(config.zoo.ranks or [config.lora.rank])
        self.adapter_bytes = 4 * rank * sum(d_in + d_out for d_in, d_out in functional.shapes.values())

    def teachers(self) -> Stage:
        """Batches of teachers; each micro-batch of a step has as many rows as fit."""
        functional, load, zoo = self.functional, self.load, self.config.zoo
        if zoo.gradient_checkpointing:
            recompute_layers(functional, "zoo.gradient_checkpointing")
        together = min(adapters_at_once(functional, self.config.lora, zoo), load.adapters)
        each = TEACHER_COPIES * self.adapter_bytes
        self._take(together * each)
        rows = rows_at_once(functional, "teachers", load.tokens, together * zoo.batch_size, answers=load.answer_tokens, backward=True)
        part = self._rows(rows, together, zoo.batch_size)
        trained = Teachers(functional, self.config, together)
        parts = share_of_layers(functional, part) * together * zoo.batch_size / part.count
        step = count(lambda: trained.micro_batch(part)) * parts + count(trained.update)
        check = self._scored() * (together * MAX_VALIDATION)
        batches = math.ceil(load.adapters / together)
        work = (step * zoo.steps + check * math.ceil(zoo.steps / zoo.check_interval)) * math.ceil(batches / self.devices)
        what = f"{load.adapters} adapters, {together} at once in parts of {part.count} rows, at most {zoo.steps} steps"
        return self._stage(
            "teachers", what, each, together, part.count, self._bytes(load.tokens, load.answer_tokens, backward=True), work, batches
        )

    def deltas(self) -> Stage:
        """Chunks of adapters through the probes; the base's own states once."""
        probes, tokens, load = self.config.probe.num_probes, self.load.probe_tokens, self.load
        together = min(deltas_at_once(self.functional, probes, tokens, 1), load.adapters)
        chunks = math.ceil(load.adapters / together)
        chunk = count(lambda: forward(self.functional, Rows(together, probes, tokens, 0), self.config.lora.rank))
        what = f"{load.adapters} adapters, {together} at once, {probes} probes of {tokens} tokens"
        work = chunk * (math.ceil(chunks / self.devices) + 1)
        sizes = self._bytes(tokens, 0)
        return self._stage("deltas", what, self.adapter_bytes, together, together * probes, sizes, work, chunks)

    def generator(self) -> Stage:
        """Training's steps, and before them the teachers' outputs, once, and the guide of tasks without teachers."""
        functional, load, training, objective = self.functional, self.load, self.config.training, self.config.objective
        if training.gradient_checkpointing:
            recompute_layers(functional)
        if training.shard_base:
            self._share()
        trained, reads = Generator(functional, self.config, load.levels), reads_base(self.config)
        weights = sum(parameter.nbytes for parameter in trained.network.parameters())
        own = math.ceil(training.tasks_per_step / self.devices)
        examples = training.examples_per_task + bool(objective.practice) + bool(objective.context)
        sizes = self._bytes(load.tokens, load.answer_tokens, backward=True)
        written, state = ADAPTER_COPIES * self.adapter_bytes, (1 + OPTIMIZER_COPIES) * weights
        most = min(own, training.batch_size)
        each = written + (examples * row_bytes(functional, load.tokens, backward=True) if reads else 0)
        fixed = state + (logits_bytes(functional, most * examples * load.answer_tokens) if reads else 0)
        together = functional.memory.at_once("generator", each, most, fixed)
        part = Rows(together, examples, load.tokens, load.answer_tokens)
        parts = (share_of_layers(functional, part) if reads else 1.0) * math.ceil(own / together)
        work = (count(lambda: trained.micro_batch(part)) * parts + count(trained.update)) * training.total_steps
        if reads:
            work += self._scored() * (training.train_examples * load.learned / self.devices)
        if objective.context:
            work += self._guide(own)
        what = f"{weights / 4e6:.1f}M parameters, {training.total_steps} steps of {training.tasks_per_step} adapters, {together} at once"
        what += f", the base's layers in {self.devices} shares" if training.shard_base else ""
        return self._stage(
            "generator", what, written, together, together * examples if reads else 0, sizes, work, training.tasks_per_step, state
        )

    def _guide(self, own: int) -> Work:
        """The training of the LoRA that reads requests, on every device, and in every step its answers and what it predicts there."""
        functional, load, zoo = self.functional, self.load, self.config.zoo
        asked = Rows(1, own, TOLD * load.tokens, load.answer_tokens)
        taught = self._multitask(TOLD * load.tokens, zoo.steps * zoo.batch_size * load.learned // BATCH_SIZE)
        return taught + count(lambda: forward(functional, asked, self.config.lora.rank)) * (2 * self.config.training.total_steps)

    def _multitask(self, tokens: int, steps: int) -> Work:
        """The training of one LoRA for all tasks, on rows of so many tokens."""
        trained, lesson = Teachers(self.functional, self.config, 1), Rows(1, BATCH_SIZE, tokens, self.load.answer_tokens)
        return (count(lambda: trained.micro_batch(lesson)) + count(trained.update)) * steps

    def evaluation(self) -> Stage:
        """Every method's adapters on all tasks' test examples, and what rivals train and choose before."""
        load, zoo = self.load, self.config.zoo
        methods = [method for method in METHODS.values() if not any(getattr(method, need) for need in NEEDS)]
        methods = [m for m in methods if bool(load.levels) >= m.needs_attributes]
        methods = [m for m in methods if m.is_sensible(load.chat, self.config.generator.alignment)]
        together = self._scored_at_once()
        lengths = sum((load.asked if m.reads_condition else load.answered) * (TOLD if m.instructs else 1) for m in methods)
        chosen = sum(bool(load.levels) >= reads for reads in RIDGES) * len(KERNELS) * len(STRENGTHS)
        rows = lengths * load.test_examples + chosen * min(VALIDATION_TASKS, load.learned) * VALIDATION_EXAMPLES
        work = self._scored() * math.ceil(rows / self.devices)
        if not load.chat:
            work += self._multitask(load.tokens, zoo.steps)
        elif not self.config.objective.context:
            work += self._multitask(TOLD * load.tokens, zoo.steps * zoo.batch_size * load.learned // BATCH_SIZE)
        what = f"{load.asked} questions of {load.test_examples} examples by {len(methods)} methods, {together} rows at once"
        each, adapters = SCORED_COPIES * self.adapter_bytes, max(1, together // load.test_examples)
        return self._stage("evaluation", what, each, adapters, together, self._bytes(load.tokens, load.answer_tokens), work, load.tasks)

    def _take(self, size: float) -> None:
        """What lies on the device from here on."""
        memory = self.functional.memory
        assert isinstance(memory, PaperMemory)
        memory.taken += size

    def _share(self) -> None:
        """From here on each device has its share of the base alone, and room for what it gathers."""
        self.base_bytes = sum(shared_bytes(self.functional, self.devices))
        self._take(self.base_bytes - weights_bytes(self.functional))

    def _scored(self) -> Work:
        """Of one row, scored among as many as share a forward."""
        rows = self._rows(self._scored_at_once(), self.load.adapters, self.load.test_examples)
        return count(lambda: forward(self.functional, rows, self.config.lora.rank)) * (share_of_layers(self.functional, rows) / rows.count)

    def _scored_at_once(self) -> int:
        load = self.load
        most = min(load.tasks * load.test_examples, comfortable_rows(self.functional, load.tokens))
        return rows_at_once(self.functional, "scoring", load.tokens, most, answers=load.answer_tokens)

    def _rows(self, at_once: int, adapters: int, each: int) -> Rows:
        """Whole adapters of a batch as far as that many rows go, else a part of one's rows."""
        whole = at_once // each
        return Rows(min(adapters, max(1, whole)), each if whole else at_once, self.load.tokens, self.load.answer_tokens)

    def _bytes(self, tokens: int, answers: int, backward: bool = False) -> Callable[[int], float]:
        """What so many rows take together."""
        return lambda rows: rows_bytes(self.functional, Rows(rows, 1, tokens, answers), backward) if rows else 0

    def _stage(
        self,
        name: str,
        what: str,
        each: float,
        adapters: int,
        rows: int,
        sizes: Callable[[int], float],
        work: Work,
        parts: int,
        state: float = 0,
    ) -> Stage:
        """Of adapters that take `each` bytes, and rows that take `sizes`, beside the base and some state; `parts` can be shared out."""
        fixed = self.base_bytes + state
        return Stage(name, what, fixed + each + sizes(min(rows, 1)), fixed + adapters * each + sizes(rows), work, min(self.devices, parts))


def rows_bytes(functional: FunctionalLoRA, rows: Rows, backward: bool = False) -> float:
    """Bytes that rows take in a forward, with or without a backward pass, and the logits of their answers."""
    return rows.count * row_bytes(functional, rows.tokens, backward=backward) + logits_bytes(functional, rows.count * rows.answers)


STAGES = (Planner.teachers, Planner.deltas, Planner.generator, Planner.evaluation)
"""In the order in which they run."""
