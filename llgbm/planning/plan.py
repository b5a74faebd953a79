"""The plan of an experiment: memory and time of each stage on devices of a kind, before anything of it is loaded or computed."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.memory import GIB, SHARE
from llgbm.models.effects import levels_of
from llgbm.planning.costs import UnitCosts
from llgbm.planning.paper import paper_base, paper_tokens
from llgbm.planning.stages import STAGES, Planner, Stage, Workload
from llgbm.planning.work import on_paper
from llgbm.training.setup import split_tasks
from llgbm.zoo.suite import CHAT_FRAME, IN_UNSEEN_WORDS, SEEN, TaskSuite
from llgbm.zoo.suites import load_suite

SAMPLED = 2
"""Examples of each task whose lengths stand for all."""
ASSUMED_TOKENS, ASSUMED_ANSWER = 128, 16
"""Of an example, where the base's tokenizer is not here."""


@dataclass(frozen=True)
class Devices:
    """What an experiment would run on."""

    count: int
    memory_bytes: float
    """Of each."""
    costs: UnitCosts


@dataclass(frozen=True)
class Plan:
    """Stages in their order, and the devices they are planned for."""

    stages: list[Stage]
    devices: Devices
    adapter_bytes: int
    """Of each teacher, in a zoo on disk."""

    def seconds(self, stage: Stage) -> float:
        """On the clock."""
        return self.devices.costs.seconds(stage.work)

    @property
    def device_hours(self) -> float:
        """Of all devices, for as long as the stages take one after another."""
        return sum(map(self.seconds, self.stages)) * self.devices.count / 3600

    def too_large(self) -> list[Stage]:
        """Stages that do not fit however little is done at once."""
        return [stage for stage in self.stages if stage.least_bytes > SHARE * self.devices.memory_bytes]


def make_plan(config: ExperimentConfig, load: Workload, devices: Devices) -> Plan:
    """Plan an experiment.

    Raises:
        InputError: Nothing is known of the base, the costs are for another precision, or a stage does not fit; the message says which
            setting to change.
    """
    if devices.costs.dtype != config.model.dtype:
        raise InputError(
            f"the costs are of {devices.costs.dtype}, model.dtype is {config.model.dtype}; measure them with --calibrate in that precision"
        )
    if config.training.shard_base and devices.count < 2:
        raise InputError("training.shard_base spreads the base over devices, and there is one; plan with more (--gpus), or set it to false")
    plan = _plan(config, load, devices)
    if not plan.too_large():
        return plan
    stage = max(plan.too_large(), key=lambda one: one.least_bytes)
    raise InputError(
        f"{stage.name}: {config.model.name} in {config.model.dtype} needs devices of {_gib(stage.least_bytes / SHARE)} GiB, these have "
        f"{_gib(devices.memory_bytes)}; {_remedy(plan, config, load)}"
    )


def workload(config: ExperimentConfig, adapters: int | None = None, tokens: int | None = None) -> tuple[Workload, bool]:
    """How much a config asks for, and whether lengths were measured by the base's tokenizer, not assumed.

    Args:
        config: Names suite, seeds, probes.
        adapters: As many teachers instead, one for each of as many tasks.
        tokens: Length of an example instead.
    """
    suite = load_suite(config.zoo.suite)
    tasks = list(suite)
    base = paper_tokens(config.model)
    longest, answer = tokens or ASSUMED_TOKENS, ASSUMED_ANSWER
    if base is not None and tokens is None:
        framing = Framing.of(base, suite, config.zoo)
        batch: TokenBatch = framing.batch(framing.fitting(example for task in tasks for example in task.train[:SAMPLED]))
        longest, answer = batch.input_ids.shape[1], math.ceil(float(batch.predicts.sum(1).float().mean()))
    names = [task.name for task in suite.select(split=SEEN)] if adapters is None else [str(i) for i in range(adapters)]
    seeds = len(config.zoo.seeds) if adapters is None else 1
    learns = split_tasks(names, config)[0]
    learned, attributes = len(learns), [] if adapters else [suite[name].attributes for name in learns]
    asked, answered = (adapters, adapters) if adapters else _questions(suite, learned)
    load = Workload(
        adapters=adapters or len(tasks) * seeds,
        learned=learned * seeds,
        tasks=adapters or len(tasks),
        asked=asked,
        answered=answered,
        levels=tuple(len(levels) for levels in levels_of(attributes).values()),
        chat=suite.frame == CHAT_FRAME,
        tokens=longest,
        answer_tokens=min(answer, longest),
        test_examples=len(tasks[0].test),
        probe_tokens=min(config.probe.max_length, longest),
    )
    return load, base is not None and tokens is None


def _questions(suite: TaskSuite, learned: int) -> tuple[int, int]:
    """Over all splits of an evaluation, how often it asks in words that change, and what is left of that where words are not read."""
    size = {split: learned if split == SEEN else len(suite.select(split=split).tasks) for split in suite.task_splits}
    further = len(suite.further_tests) * sum(size.values())
    return sum(size[IN_UNSEEN_WORDS.get(split, split)] for split in suite.splits) + further, sum(size.values()) + further


def _plan(config: ExperimentConfig, load: Workload, devices: Devices) -> Plan:
    stages, planners = [], []
    for stage in STAGES:
        with on_paper():
            functional = paper_base(config.model, config.lora.target_modules, devices.costs.kind, devices.memory_bytes)
            planners.append(Planner(functional, config, load, devices.count))
            stages.append(stage(planners[-1]))
    return Plan(stages, devices, planners[0].adapter_bytes)


def _remedy(plan: Plan, config: ExperimentConfig, load: Workload) -> str:
    """The first settings under which everything fits: one after another is added that makes a stage smaller which is too large."""
    said: list[str] = []
    for text, changed in _savings(plan.devices.count):
        tried = changed(config)
        planned = plan if tried == config else _plan(tried, load, plan.devices)
        if not _is_smaller(planned, plan):
            continue
        config, plan = tried, planned
        said.append(text)
        if not plan.too_large():
            return f"set {', '.join(said)}"
    least = max(stage.least_bytes for stage in plan.stages)
    settings = f" and set {', '.join(said)}" if said else ""
    return f"take devices of {math.ceil(least / SHARE / GIB)} GiB{settings}, or take a smaller base"


def _is_smaller(plan: Plan, former: Plan) -> bool:
    """Whether a stage that was too large needs less than before."""
    large = {stage.name: stage.least_bytes for stage in former.too_large()}
    return any(stage.name in large and stage.least_bytes < large[stage.name] for stage in plan.stages)


def _savings(devices: int) -> list[tuple[str, Callable[[ExperimentConfig], ExperimentConfig]]]:
    """Settings that save memory, in the order in which they cost least."""
    return [
        ("model.dtype to bfloat16", lambda config: replace(config, model=replace(config.model, dtype="bfloat16"))),
        (
            "zoo.gradient_checkpointing and training.gradient_checkpointing to true",
            lambda config: replace(
                config, training=replace(config.training, gradient_checkpointing=True), zoo=replace(config.zoo, gradient_checkpointing=True)
            ),
        ),
        *(
            [("training.shard_base to true", lambda config: replace(config, training=replace(config.training, shard_base=True)))]
            if devices > 1
            else []
        ),
        ("generator.size to s", lambda config: replace(config, generator=replace(config.generator, size="s"))),
        ("lora.rank to 4", lambda config: replace(config, lora=replace(config.lora, rank=min(4, config.lora.rank)))),
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"
