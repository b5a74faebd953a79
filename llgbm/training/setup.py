"""What a training run reads: base, zoo and encoder, checked against each other and split into training and validation tasks."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA, shard_layers
from llgbm.judging import Judge, judge_each
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.stored import StoredFactors, parts_of
from llgbm.memory import GIB
from llgbm.models.alignment import count_words
from llgbm.models.attribute_generator import SLOTS_SHARE, SLOTS_SHARE_OF_TOKENS, AttributeGenerator, known_texts, usual_readers
from llgbm.models.effects import levels_of
from llgbm.models.encoder import TextEncoder
from llgbm.models.encoder_names import build_encoder
from llgbm.models.generator import LoRAGenerator
from llgbm.models.reading import homes_of
from llgbm.models.ridge import FOLDS
from llgbm.models.writer import GeneratorSpec
from llgbm.scoring import Score, score
from llgbm.training.conditions import ConditionTable
from llgbm.workspace import Workspace, open_workspace
from llgbm.zoo.base import BaseOptions, check_usable, plain_dtype
from llgbm.zoo.folder import Teacher, TeacherZoo
from llgbm.zoo.suite import SEEN, Task

VALIDATION_EXAMPLES = 16
"""Train-side examples of each held-back task on which a checkpoint is judged."""


@dataclass
class TeacherSet:
    """Teachers, the task of each, and the same number of encoded examples of each, teacher-major, on the host."""

    teachers: list[Teacher]
    tasks: list[Task]
    factors: LoRAFactors | StoredFactors
    examples: TokenBatch
    per_teacher: int
    judges: list[Judge]
    """One per teacher."""

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @cached_property
    def folds(self) -> list[int]:
        """The fold of each teacher's task, for regressions that must not know it, dealt at random."""
        names = sorted(set(self.task_names))
        random.Random("folds").shuffle(names)
        return [names.index(name) % FOLDS for name in self.task_names]

    def rows_of(self, chosen: range) -> TokenBatch:
        """The examples of consecutive teachers."""
        return self.examples.rows(slice(chosen.start * self.per_teacher, chosen.stop * self.per_teacher))

    def score(self, functional: FunctionalLoRA, factors: LoRAFactors | StoredFactors | None, chosen: range, batch: TokenBatch) -> Score:
        """Scores of one adapter per chosen teacher (None: the base) on a batch of their rows; exact match goes token by token."""
        judges = self.judges[chosen.start : chosen.stop]
        if all(judge.exact for judge in judges):
            return score(functional, factors, batch)
        rows = [slice(k * self.per_teacher, (k + 1) * self.per_teacher) for k in range(len(chosen))]
        own = factors.select(range(len(chosen))) if isinstance(factors, StoredFactors) else factors
        return Score.join(judge_each(functional, own, [batch.rows(part) for part in rows], judges, judges[0].framing.pad))


@dataclass(kw_only=True)
class Setup(Workspace):
    """Everything loaded and on its device."""

    encoder: TextEncoder
    conditions: ConditionTable
    train: TeacherSet
    validation: TeacherSet | None


def prepare(config: ExperimentConfig, device: str) -> Setup:
    """Load zoo, base and encoder; the zoo says which base, the config may say where it lies.

    Raises:
        InputError: The zoo was trained on another base, has no teachers to train on, or a setting is out of range.
    """
    model, sharded = config.model, config.training.shard_base
    options = replace(BaseOptions.place(model), name=model.name, revision=model.revision, device="cpu" if sharded else device)
    workspace = open_workspace(config.checkpoint_folder, options=options)
    zoo, base = workspace.zoo, workspace.base
    if sharded:
        plain_dtype(base.dtype, "training.shard_base")
    chosen, held_back = split_teachers(zoo, config)
    zoo.check([*chosen, *held_back])
    encoder = build_encoder(config.generator.encoder, base)
    tasks = {t.task: zoo.suite[t.task] for t in (*chosen, *held_back)}
    conditions = ConditionTable.of(config, list(tasks.values()), encoder)
    if sharded:
        shard_layers(workspace.functional, base.model, torch.device(device), "training.shard_base")
    cache_gb = config.training.teacher_cache_gb
    train = _teacher_set(workspace, chosen, config.training.train_examples, cache_gb)
    validation = _teacher_set(workspace, held_back, VALIDATION_EXAMPLES, cache_gb) if held_back else None
    return Setup(**workspace.parts(), encoder=encoder, conditions=conditions, train=train, validation=validation)


def check_device(asked: str, used: torch.device) -> None:
    """InputError unless training runs on the device that was asked for."""
    check_usable(asked)
    wanted = torch.device(asked)
    if wanted.type != used.type or wanted.index not in (None, used.index or 0):
        raise InputError(
            f"model.device is {asked}, but training would run on {used}; give {used}, or make {asked} the one device to be seen"
        )


def split_teachers(zoo: TeacherZoo, config: ExperimentConfig) -> tuple[list[Teacher], list[Teacher]]:
    """Teachers of seen tasks to train on, and those of tasks held back to choose the checkpoint; see `split_tasks`."""
    teachers = zoo.select(split=SEEN)
    names = {teacher.task for teacher in teachers}
    kept, held = map(set, split_tasks(names, config))
    if not kept:
        raise InputError(
            f"zoo {zoo.folder}: {len(names)} seen tasks, {len(held)} of them held back, leave none to train on; train more teachers"
        )
    return [t for t in teachers if t.task in kept], [t for t in teachers if t.task in held]


def split_tasks(names: Iterable[str], config: ExperimentConfig) -> tuple[list[str], list[str]]:
    """Seen tasks to train on, and those held back.

    The seed shuffles the tasks once: the first ones are held back, so runs with fewer training tasks validate on the
    same ones and train on a subset of the larger runs' tasks.
    """
    training, shuffled = config.training, sorted(names)
    random.Random(f"split/{config.seed}").shuffle(shuffled)
    n_held = max(1, round(training.validation_fraction * len(shuffled))) if training.validation_fraction else 0
    rest = shuffled[n_held:]
    return rest[: len(rest) if training.max_train_tasks is None else training.max_train_tasks], shuffled[:n_held]


def spec_of_reader(config: ExperimentConfig, setup: Setup) -> dict[str, Any]:
    """What the spec of every network that reads conditions says of its reader, its base, and the tasks it is trained and judged on."""
    return {
        "embedding_dim": setup.encoder.dim,
        "size": config.generator.size,
        "slots": config.generator.slots,
        "encoder": config.generator.encoder,
        "encoder_id": setup.encoder.content_id,
        "condition": config.generator.condition,
        "max_prompts": config.generator.max_prompts,
        "base": setup.base.identity,
        "trained_on": sorted(set(setup.train.task_names)),
        "validated_on": sorted(set(setup.validation.task_names)) if setup.validation else [],
    }


def new_generator(config: ExperimentConfig, setup: Setup) -> LoRAGenerator | AttributeGenerator:
    """A generator for the zoo's base, modules and rank: one of attributes, which begins at what they say of the teachers, where these are
    asked for and the tasks have some; else one that writes the zero adapter, or what a ridge regression says, so far."""
    factors = setup.train.factors
    first = factors.module_names[0]
    parts = [(max(a.shape[1] for a in part.a.values()), float(part.scaling[first].max())) for part in parts_of(factors) if first in part.a]
    rank, scaling = (max(values) for values in zip(*parts, strict=True))
    spec = GeneratorSpec(
        shapes=dict(factors.shapes),
        rank=rank,
        alpha=rank * scaling,
        ridge=min(config.generator.ridge, len(setup.train) - 1),
        fan_in_fan_out=setup.functional.fan_in_fan_out,
        **spec_of_reader(config, setup),
    )
    own = [task.attributes for task in setup.train.tasks]
    if config.generator.attributes and any(own):
        attributes, texts = levels_of(own), [setup.conditions.of_task(name) for name in setup.train.task_names]
        homes = homes_of(own, [task.domain for task in setup.train.tasks], attributes)
        encoder, share, readers = setup.encoder, config.generator.slots_share, config.generator.readers
        if share is None:
            share = SLOTS_SHARE_OF_TOKENS if encoder.token_widths else SLOTS_SHARE
        if readers is None:
            readers = usual_readers(bool(encoder.token_widths))
        read = {"attributes": attributes, "homes": homes, "slots_share": share, "readers": readers}
        width = encoder.words.dim if config.generator.alignment and encoder.words is not None else 0
        known = {"known_texts": known_texts(texts), "known_words": count_words(texts, width)}
        known |= {"word_width": width, "token_widths": list(encoder.token_widths)}
        by_attributes = AttributeGenerator(replace(spec, **read, **known, ridge=0), setup.encoder)
        by_attributes.fit(factors, own, texts)
        return by_attributes
    generator = LoRAGenerator(spec, setup.encoder)
    generator.fit_scale(factors)
    if spec.ridge:
        names = setup.train.task_names
        generator.fit_start(factors, [setup.conditions.means(name) for name in names], setup.train.folds, config.generator.shrinkage)
    return generator


def _teacher_set(there: Workspace, teachers: Sequence[Teacher], examples: int, cache_gb: float) -> TeacherSet:
    zoo, framing = there.zoo, there.framing
    tasks = [zoo.suite[teacher.task] for teacher in teachers]
    fitting = [framing.of_task(task, "train") for task in tasks]
    per_teacher = min(examples, *map(len, fitting))
    device = there.base.model.device
    encoded = framing.batch([example for of_task in fitting for example in of_task[:per_teacher]])
    judges = [Judge.of(framing, task) for task in tasks]
    return TeacherSet(list(teachers), tasks, zoo.open_factors(teachers, device, int(cache_gb * GIB)), encoded, per_teacher, judges)
