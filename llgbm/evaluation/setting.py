"""What an evaluation asks and of whom: a workspace, and the questions of each split."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from llgbm.dataset import TokenBatch
from llgbm.delta import DeltaEngine
from llgbm.errors import InputError
from llgbm.evaluation.asking import check_split, parse_split
from llgbm.evaluation.foreign import Generate, load_foreign
from llgbm.files import hash_tensors
from llgbm.judging import Judge
from llgbm.lora.factors import LoRAFactors
from llgbm.models.encoder import TextEncoder
from llgbm.models.encoder_names import build_encoder
from llgbm.multitask import BATCH_SIZE
from llgbm.workspace import Workspace, open_workspace
from llgbm.zoo.base import BaseOptions
from llgbm.zoo.folder import Teacher
from llgbm.zoo.suite import IN_UNSEEN_WORDS, SEEN, Example, Task


@dataclass(frozen=True)
class EvaluationConfig:
    """Every choice of an evaluation."""

    splits: tuple[str, ...] = ()
    """Splits to report, as `asking` names them; empty: all the zoo has tasks for, each in its suite's own words."""
    methods: tuple[str, ...] = ()
    """Methods to score; empty: all that are possible (those of a generator need a checkpoint)."""
    max_examples: int | None = None
    """Test examples per task; all by default."""
    demonstrations: int = 3
    """Solved examples shown before each query in few-shot."""
    top_k: int = 3
    """Teachers merged by merged_topk and merged_predicted."""
    predictor: str | None = None
    """Run of a predictor of fingerprints, for the methods that retrieve by them."""
    foreign: str | None = None
    """Somebody else's generator as `module:function`, for the method foreign; see `evaluation.foreign`."""
    soft_prompt: str | None = None
    """Run of a writer of soft prompts, for the method of that name."""
    multitask_batch_size: int = BATCH_SIZE
    """Examples per step of the multi-task LoRA; its steps and learning rate are the teachers'."""
    teacher_seed: int | None = None
    """Seed of the teachers to compare with; the zoo's first by default."""
    seed: int = 0
    """Draws demonstrations and shuffled conditions."""
    base: BaseOptions = field(default_factory=BaseOptions)
    """Another place, precision, device or memory of the base than the zoo recorded."""
    adapters_at_once: int = 64
    """Adapters held in memory at once, besides those a method keeps itself."""


@dataclass(frozen=True)
class Question:
    """One task as one split asks for it."""

    task: Task
    split: str
    wording: int = 0
    """Which of the task's wordings; numbers count through them."""

    def condition(self, kind: str, max_prompts: int) -> tuple[str | None, tuple[str, ...]]:
        """The description and the prompts the generator reads; splits in unseen words take those no training used."""
        described, prompts = self._wordings()
        rng = random.Random(f"{self.split}/{self.task.name}/{self.wording}")
        alter = parse_split(self.split)[1].alter
        start = self.wording * max_prompts % max(1, len(prompts))
        shown = () if kind == "description" else prompts[start : start + max_prompts]
        description = None if kind == "prompts" else alter(described[self.wording % len(described)], rng)
        return description, tuple(alter(prompt, rng) for prompt in shown)

    @property
    def described(self) -> bool:
        """Whether there is a description in its split's words."""
        return bool(self._wordings()[0])

    def texts(self, kind: str, max_prompts: int) -> list[str]:
        """The condition as one list."""
        description, prompts = self.condition(kind, max_prompts)
        return [*([description] if description else []), *prompts]

    def reworded(self, kind: str, max_prompts: int) -> list["Question"]:
        """This question in every wording its split asks in, this one first."""
        described, prompts = self._wordings()
        different = -(-len(prompts) // max_prompts) if kind == "prompts" else len(described)
        return [replace(self, wording=i) for i in range(min(parse_split(self.split)[1].wordings, different))]

    def _wordings(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Descriptions and prompts to choose from."""
        if parse_split(self.split)[0] in IN_UNSEEN_WORDS:
            return self.task.unseen_paraphrases, self.task.unseen_prompts
        return (self.task.description, *self.task.paraphrases), self.task.prompts


@dataclass(kw_only=True)
class Setting(Workspace):
    """Base, zoo and (perhaps) generator, ready to be asked."""

    config: EvaluationConfig
    cache_dir: Path | None = None
    """Where methods keep what they trained."""
    teachers: dict[str, Teacher] = field(init=False)
    """By task, of one seed."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What methods made once for all questions."""

    def __post_init__(self) -> None:
        seeds = sorted({t.seed for t in self.zoo.teachers})
        if not seeds:
            raise InputError(f"zoo {self.zoo.folder} has no teachers; build it with 'llgbm zoo build'")
        seed = seeds[0] if self.config.teacher_seed is None else self.config.teacher_seed
        if seed not in seeds:
            raise InputError(f"teacher_seed is {seed}, but zoo {self.zoo.folder} has teachers of seeds {', '.join(map(str, seeds))}")
        self.teachers = {t.task: t for t in self.zoo.select(seed=seed)}

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What stands under a name; made now when nothing does."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def judge(self, task: Task) -> Judge:
        """How answers to a task are judged, whatever is read before an example."""
        return Judge.of(self.roomy_framing, task)

    @property
    def pad_token_id(self) -> int:
        pad_token_id = self.base.tokenizer.pad_token_id
        assert isinstance(pad_token_id, int)  # `load_base` sees to it
        return pad_token_id

    @property
    def condition_kind(self) -> tuple[str, int]:
        """What a condition holds (description, prompts, both) and at most how many prompts."""
        return (self.generator.spec.condition, self.generator.spec.max_prompts) if self.generator else ("description", 8)

    @cached_property
    def network_hashes(self) -> dict[str, str]:
        """Hash of the weights of each network there is, by name."""
        networks = {"generator": self.generator, "predictor": self.predictor, "soft_prompt": self.soft_prompt}
        return {name: hash_tensors(network.state_dict()) for name, network in networks.items() if network is not None}

    @cached_property
    def encoder(self) -> TextEncoder:
        """The generator's text encoder; the hashing encoder without a generator."""
        return self.generator.encoder(self.base) if self.generator else build_encoder("hashing")

    @cached_property
    def pool(self) -> list[Teacher]:
        """The seen teachers: those the generator (else the predictor, else the soft prompt) trained on, all of split `seen` without any."""
        learner = self.generator or self.predictor or self.soft_prompt
        trained_on = set(learner.spec.trained_on) if learner else None
        pool = [t for t in self.teachers.values() if t.split == "seen" and (trained_on is None or t.task in trained_on)]
        if not pool:
            raise InputError(
                f"zoo {self.zoo.folder} has no teacher of a seen task the {learner.kind if learner else 'generator'} trained on; "
                "give the zoo it was trained on"
            )
        return pool

    @cached_property
    def pool_factors(self) -> LoRAFactors:
        """The pool's factors."""
        return self.zoo.factors(self.pool)

    @property
    def pool_texts(self) -> list[list[str]]:
        """For each teacher of the pool, the texts that ask for its task in training."""
        kind, _ = self.condition_kind
        texts = []
        for teacher in self.pool:
            task = self.zoo.suite[teacher.task]
            described = () if kind == "prompts" else (task.description, *task.paraphrases)
            texts.append([*described, *(() if kind == "description" else task.prompts)])
        return texts

    @cached_property
    def pool_rows(self) -> list[Float[Tensor, "_ E"]]:
        """For each teacher of the pool, the embeddings of the texts that ask for its task in training; all methods share them."""
        return self.embed_each(self.pool_texts)

    @cached_property
    def pool_embeddings(self) -> Float[Tensor, "P E"]:
        """For each teacher of the pool, the mean of these, of unit length."""
        return _mean_directions(self.pool_rows)

    @property
    def has_attributes(self) -> bool:
        """Whether the pool's tasks have attributes."""
        return any(self.zoo.suite[teacher.task].attributes for teacher in self.pool)

    def embed(self, texts: Sequence[Sequence[str]]) -> Float[Tensor, "K E"]:
        """Mean embedding of each list of texts, of unit length."""
        return _mean_directions(self.embed_each(texts))

    def embed_each(self, texts: Sequence[Sequence[str]]) -> list[Float[Tensor, "_ E"]]:
        """The embedding of each text, list by list."""
        return list(self.encoder.embed([text for group in texts for text in group]).split([len(group) for group in texts]))

    def predict(self, questions: Sequence[Question]) -> Float[Tensor, "Q F"]:
        """The fingerprint predicted from each question's condition, of the kind the predictor was trained on."""
        assert self.predictor is not None
        spec = self.predictor.spec
        return self.predictor.predict([question.texts(spec.condition, spec.max_prompts) for question in questions], base=self.base)

    def prompted(self, questions: Sequence[Question]) -> Float[Tensor, "Q V D"]:
        """The virtual tokens written for each question's condition, of the kind the writer was trained on."""
        assert self.soft_prompt is not None
        spec = self.soft_prompt.spec
        return self.soft_prompt.write([question.texts(spec.condition, spec.max_prompts) for question in questions], self.base)

    def fingerprints(self, teachers: Sequence[Teacher]) -> Float[Tensor, "K F"]:
        """What the teachers do on the predictor's probes, measured; each teacher once."""
        missing = [t for t in teachers if t.path not in self._fingerprints]
        if missing:
            measured = torch.from_numpy(self._engine.deltas(self.zoo.factors(missing))).flatten(1)
            self._fingerprints.update(zip((t.path for t in missing), measured, strict=True))
        return torch.stack([self._fingerprints[t.path] for t in teachers])

    def questions(self, split: str) -> list[Question]:
        """The split's tasks that have a teacher, each in its first wording. `seen` and `unseen_wording` are the pool's tasks.

        Of a split that is asked for by name and has no teacher at all, every task: unseen ones need none to be asked for.
        """
        asked, _, test = parse_split(split)
        wanted = IN_UNSEEN_WORDS.get(asked, asked)
        teachers = self.pool if wanted == SEEN else [teacher for teacher in self.teachers.values() if teacher.split == wanted]
        tasks = [self.zoo.suite[teacher.task] for teacher in teachers]
        if not tasks and wanted != SEEN and split in self.config.splits:
            tasks = [task for task in self.zoo.suite if task.split == wanted]
        if asked in IN_UNSEEN_WORDS:
            tasks = [task for task in tasks if self._has_unseen_wording(task)]
        return [Question(task.tested_on(test), split) for task in tasks if not test or test in task.further_tests]

    @property
    def untaught(self) -> list[str]:
        """The splits that are asked for by name though their tasks have no teachers."""
        return [split for split in self.config.splits if any(q.task.name not in self.teachers for q in self.questions(split))]

    @property
    def undescribed(self) -> list[str]:
        """The splits with a task that no description asks for: those in unseen words have but prompts of it."""
        return [split for split in self.splits() if not all(q.described for q in self.questions(split))]

    def _has_unseen_wording(self, task: Task) -> bool:
        kind, _ = self.condition_kind
        described = kind == "prompts" or bool(task.unseen_paraphrases)
        return described and (kind == "description" or bool(task.unseen_prompts))

    def splits(self) -> list[str]:
        """The configured splits, or all that have questions: of further sets of test examples those that ask in known words.

        Raises:
            InputError: A configured split is unknown or has no task in this zoo.
        """
        suite = self.zoo.suite
        for split in self.config.splits:
            check_split(split, suite)
            if not self.questions(split):
                raise InputError(f"zoo {self.zoo.folder} has no tasks for split {split}; leave the split out")
        further = [f"{split}+{test}" for split in suite.task_splits for test in suite.further_tests]
        return list(self.config.splits) or [split for split in [*suite.splits, *further] if self.questions(split)]

    def shuffled(self, split: str) -> dict[str, Question]:
        """For each task of the split, the question of another: a random cycle, so no task keeps its own."""
        questions = self.questions(split)
        random.Random(f"shuffled/{split}/{self.config.seed}").shuffle(questions)
        if len(questions) == 1:
            own = questions[0].task.name
            others = [Question(self.zoo.suite[t.task], "seen") for t in self.pool if t.task != own]
            return {own: (others or questions)[0]}
        return {q.task.name: other for q, other in zip(questions, [*questions[1:], *questions[:1]], strict=True)}

    def tokens(self, task: Task) -> TokenBatch:
        """The task's test examples as the base reads them."""
        key = task.name, task.test  # of one task several sets may be asked
        if key not in self._tokens:
            self._tokens[key] = self.framing.batch(self.examples(task))
        return self._tokens[key]

    def demonstrated(self, task: Task) -> TokenBatch:
        """The same examples, each after solved train examples of its own."""
        return self.roomy_framing.batch(self.examples(task), self.demonstrations(task))

    def demonstrations(self, task: Task) -> list[Sequence[Example]]:
        """For each test example its own draw of solved train examples, as many as fit before it."""
        rng = random.Random(f"demonstrations/{task.name}/{self.config.seed}")
        drawn = [rng.sample(task.train, min(self.config.demonstrations, len(task.train))) for _ in self.examples(task)]
        return [self.roomy_framing.shown(example, shown) for example, shown in zip(self.examples(task), drawn, strict=True)]

    def demonstrations_shown(self, tasks: Sequence[Task]) -> dict[str, float]:
        """How many demonstrations were asked for, how many fit on average, and before how many examples fewer did."""
        counts = [len(shown) for task in tasks for shown in self.demonstrations(task)]
        asked = [min(self.config.demonstrations, len(task.train)) for task in tasks for _ in self.examples(task)]
        fewer = sum(count < wanted for count, wanted in zip(counts, asked, strict=True))
        return {"asked": self.config.demonstrations, "mean_shown": sum(counts) / len(counts), "examples_with_fewer": fewer}

    def examples(self, task: Task) -> list[Example]:
        """The task's test examples that fit, at most as many as configured."""
        return self.framing.of_task(task, "test")[: self.config.max_examples]

    @cached_property
    def foreign(self) -> Generate | None:
        """Somebody else's generator, imported."""
        return None if self.config.foreign is None else load_foreign(self.config.foreign)

    @cached_property
    def _engine(self) -> DeltaEngine:
        assert self.predictor is not None
        return self.predictor.engine(self.base)

    @cached_property
    def _fingerprints(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def _tokens(self) -> dict[tuple[str, tuple[Example, ...]], TokenBatch]:
        return {}


def _mean_directions(rows: Sequence[Float[Tensor, "_ E"]]) -> Float[Tensor, "K E"]:
    return F.normalize(torch.stack([row.mean(0) for row in rows]), dim=1)


def load_setting(
    checkpoint: str | Path | None, data_dir: str | Path, config: EvaluationConfig, cache_dir: str | Path | None = None
) -> Setting:
    """Load zoo, its base and a generator.

    Args:
        checkpoint: A run folder, a `generator/` folder or a checkpoint; None evaluates only what needs no generator.
        data_dir: The zoo.
        config: Choices.
        cache_dir: Keeps what methods train.

    Raises:
        InputError: See `open_workspace`.
    """
    workspace = open_workspace(data_dir, checkpoint, config.predictor, config.base, config.soft_prompt)
    return Setting(**workspace.parts(), config=config, cache_dir=None if cache_dir is None else Path(cache_dir))
