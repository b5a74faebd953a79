"""The generator as a problem: adapters written from conditions, compared with the teachers by every term of the objective."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.functional_lora.recompute import recompute_layers
from llgbm.lora.stored import StoredFactors
from llgbm.losses import OBJECTIVES, active_terms, objective_loss, parse_schedules, schedule_factor
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.models.generator import LoRAGenerator
from llgbm.progress import ProgressCallback
from llgbm.training.checkpoints import origin
from llgbm.training.context import Context, further_tasks
from llgbm.training.loop import TrainingResult, train
from llgbm.training.plan import StepPlan, plan_step
from llgbm.training.practice import Practice
from llgbm.training.probe_targets import ProbeTargets
from llgbm.training.problem import Problem
from llgbm.training.rereading import Readable, Rereading
from llgbm.training.setup import Setup, new_generator, prepare
from llgbm.training.standing import Begin
from llgbm.training.step import adapters_at_once, compare, generate, validate
from llgbm.training.targets import TargetOptions, TeacherTargets
from llgbm.transfer import to_device
from llgbm.workspace import settle
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.suite import Task


def train_generator(
    config: ExperimentConfig, begin: Begin = "new", progress: ProgressCallback | None = None, held: bool = False
) -> TrainingResult:
    """Train a generator on the zoo's seen teachers; write the run folder.

    Args:
        config: Everything that decides the result.
        begin: Whether the run begins in its folder or goes on there.
        progress: Called with the step, the number of steps, and the current figures.
        held: As `train`.

    Raises:
        InputError: A setting, the zoo or a checkpoint does not fit.
        DivergedError: A loss is not finite.
    """
    weights = active_terms({name: float(value) for name, value in vars(config.objective).items()})
    parse_schedules(config.training.schedules)
    config = settle(config, TeacherZoo.load(config.checkpoint_folder))
    return train(config, lambda device: BehaviorProblem(config, weights, device), begin, progress, held)


ANSWERING = ("practice", "context")
"""Terms for which answers are decoded."""
OF_ATTRIBUTES, OF_ANY_TASKS = {"attributes", "practice"}, {"agreement"}
"""Terms that count only where a generator reads attributes, and only where it reads none."""
TRUSTS = (1.0, 0.5, 0.0)
"""Weights of what the network adds to its ridge regression, between which validation decides."""


class BehaviorProblem(Problem):
    """Base, teachers and generator of one run, and what the active terms need of them."""

    kind = "generator"

    def __init__(self, config: ExperimentConfig, weights: dict[str, float], device: torch.device) -> None:
        self.config = config
        self.schedules = parse_schedules(config.training.schedules)
        self.further: list[Task] = []
        if "context" in weights:  # checked before anything is loaded
            self.further = further_tasks(config.training.further_tasks, TeacherZoo.load(config.checkpoint_folder).suite)
        if config.training.shard_base and not weights.keys().isdisjoint(ANSWERING):
            raise InputError(
                f"training.shard_base does not go with objective.{' or '.join(ANSWERING)}: processes answer in different numbers of "
                "forwards, and would wait for each other; weigh them 0, or leave the base whole"
            )
        if config.training.read_further and not (config.generator.attributes and {"context", "attributes"} <= weights.keys()):
            raise InputError(
                "training.read_further needs generator.attributes and a weight of objective.context and one of objective.attributes; "
                "leave it false"
            )
        self.at_once = config.training.batch_size
        self.setup: Setup = prepare(config, str(device))
        if config.training.gradient_checkpointing:
            recompute_layers(self.setup.functional)
        self.network: LoRAGenerator | AttributeGenerator = new_generator(config, self.setup).to(device)
        setup, network = self.setup, self.network
        self.levels = network.levels([task.attributes for task in setup.train.tasks]) if isinstance(network, AttributeGenerator) else None
        of_others = OF_ATTRIBUTES if self.levels is None else OF_ANY_TASKS
        self.weights = {name: weight for name, weight in weights.items() if name not in of_others}
        if not self.weights:
            raise InputError(
                f"objective weighs only {', '.join(weights)}, which count where a generator reads attributes; weigh others too"
            )
        if isinstance(network, AttributeGenerator) and "attributes" not in self.weights:
            network.readers.requires_grad_(False)  # nothing asks them, and processes would wait for their gradients
        self.rereading: Rereading | None = None
        self.practice: Practice | None = None
        self.known: dict[str, Any] = {}
        self.context: Context | None = None
        self.hashes = origin(config, setup.zoo)
        self.inputs = {"base": setup.base.content_hash, "zoo": setup.zoo.content_hash, "encoder": setup.encoder.content_id}

    def ready(self, say: Callable[[str], None]) -> None:
        """The teachers' outputs, and what they do on probes; the guide of tasks that have none."""
        training, setup = self.config.training, self.setup
        if "context" in self.weights:
            self.context = Context(setup, self.config, self.network, self.further, say)
        if self.levels is not None:
            taught = Readable(setup.train.task_names, setup.conditions, self.levels)
            self.rereading = Rereading(taught, self.context and self.context.readable, training.readings)
        say("teachers' outputs")
        layers = tuple(range(1, setup.functional.n_layers + 1))
        options = TargetOptions(frozenset(self.weights), layers, training.kl_top_k, int(training.target_cache_gb * 2**30))
        self.targets = TeacherTargets(setup.functional, setup.train.factors, setup.train.examples, options)
        self.probes = ProbeTargets.build(setup, self.config, frozenset(self.weights))
        if isinstance(self.network, AttributeGenerator) and self.levels is not None and "practice" in self.weights:
            self.practice = Practice(setup, self.network, self.levels, training.practice_prior, training.practice_interval)
            if self.known:
                self.practice.restore(self.known)
        fitting = adapters_at_once(training, setup.train, self.targets, self.network)
        self.at_once = min(fitting, self.known.get("at_once", fitting))

    def plan(self, step: int) -> StepPlan:
        training, train = self.config.training, self.setup.train
        return plan_step(self.config.seed, step, len(train), training.tasks_per_step, train.per_teacher, training.examples_per_task)

    def expect(self, part: StepPlan) -> None:
        """Begin to read its teachers, where they stay on disk and are looked at."""
        teachers = self.setup.train.factors
        if isinstance(teachers, StoredFactors) and self.targets.reads_teachers:
            teachers.expect(part.teachers)

    def loss(self, model: Callable[..., Any], part: StepPlan, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Write the part's adapters and compare them with their teachers."""
        setup, reword = self.setup, self.targets.options.needs("wordings")
        device = setup.functional.device
        if self.levels is None:
            model = partial(model, folds=to_device(torch.tensor([setup.train.folds[k] for k in part.teachers]), device))
        generated = generate(model, part, setup.train, setup.conditions, device, reword, self.rereading)
        evidence = compare(generated, part, setup.train, self.targets, self.probes, self.config.training.delta_loss_type)
        weights = self.weights_at(step)
        if self.practice is not None and weights["practice"]:
            self.practice.compare(step, self.at_once)
        for name, answering in (("practice", self.practice), ("context", self.context)):
            if answering is not None and (weights[name] or len(weights) == 1):
                answering.fill(evidence, part)
            else:
                weights.pop(name, None)  # it has not begun, and there is nothing to weigh
        return objective_loss(evidence, weights)

    def weights_at(self, step: int) -> dict[str, float]:
        """Each term's weight: its own schedule, or lambda's for behavioral terms."""
        training, scheduled = self.config.training, {}
        for name, weight in self.weights.items():
            behavioral = OBJECTIVES[name].behavioral
            kind = self.schedules.get(name, training.lambda_schedule if behavioral else "constant")
            factor = schedule_factor(kind, step, training.lambda_warmup_steps, training.total_steps)
            scheduled[name] = weight * factor * (training.lambda_delta if behavioral else 1.0)
        return scheduled

    def settings(self, step: int) -> dict[str, float]:
        return {f"weight/{name}": weight for name, weight in self.weights_at(step).items()}

    def state(self) -> dict[str, Any]:
        """With how a step is divided: more memory may be free when the run goes on, and other parts would round otherwise."""
        return {**(self.practice.state() if self.practice is not None else {}), "at_once": self.at_once}

    def restore(self, state: dict[str, Any]) -> None:
        self.known = state  # it counts when all is ready

    def validate(self) -> dict[str, float]:
        """Exact match and NLL of generated adapters; with a start by ridge, at the best of a few weights of what the network adds to it."""
        setup, held = self.setup, self.setup.validation
        if held is None:
            return {}

        def judged() -> dict[str, float]:
            return validate(self.network, setup.functional, setup.conditions, held, self.config.training.batch_size)

        if not isinstance(self.network, LoRAGenerator) or not self.network.spec.ridge:
            return judged()
        found = {}
        for trust in TRUSTS:
            self.network.trust.fill_(trust)
            found[trust] = judged()
        best = max(found, key=lambda trust: self.rank(found[trust]))
        self.network.trust.fill_(best)
        return {**found[best], "trust": best}

    @staticmethod
    def rank(found: Mapping[str, float]) -> tuple[float, ...]:
        """Higher score, or the same with lower NLL."""
        return found["score"], -found["nll"]

    def shown(self, best: Mapping[str, float]) -> dict[str, float]:
        return {"validation": best["score"]}

    def references(self) -> dict[str, float]:
        """The held-back tasks' teachers."""
        held = self.setup.validation
        if held is None:
            return {}
        return {"teacher_score": held.score(self.setup.functional, held.factors, range(len(held)), held.examples).mean_mark}
