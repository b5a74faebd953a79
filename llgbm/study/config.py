"""Every choice of a study of LoRA against full fine-tuning, in one typed tree; YAML files of it lie in `configs/study/`.

A field's docstring is also its `--help`. `build_study` checks all values together and reports every fault at once, by dotted name.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from llgbm.checking import SECTION, Integer, List, Number, describe, read_as
from llgbm.config import ModelConfig, Seed, names_in, preset_folder, values_in
from llgbm.names import path_part

Method = Literal["full", "lora"]
Count = Annotated[Integer, Field(ge=1)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]


def _distinct(values: list[Any]) -> list[Any]:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands twice; name it once")
    return values


def _range(bounds: list[float]) -> list[float]:
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"{bounds} is no range; give the smallest and the largest value")
    return bounds


def _scale(bounds: list[float]) -> list[float]:
    if _range(bounds)[0] <= 0:
        raise ValueError(f"{bounds} is searched by its logarithm; give values above 0")
    return bounds


Range = Annotated[List[Share], AfterValidator(_range)]
"""Smallest and largest value, drawn evenly."""
LogRange = Annotated[List[Number], AfterValidator(_scale)]
"""Smallest and largest value, drawn evenly by their logarithm."""
Choices = Annotated[List[Count], Field(min_length=1), AfterValidator(_distinct)]


@dataclass(config=SECTION)
class SizesConfig:
    """How much of each task is used; a task that has less gives what it has."""

    train_examples: Count | None = None
    """Examples that train; null: all but those for validation."""
    train_examples_of: dict[str, Count] = Field(default_factory=dict)
    """Task -> examples that train, where it is to have others: a question over a long context costs as much as ten short sentences."""
    validation_examples: Count = 200
    """Examples cut from the train split, by a fixed seed, to choose and to prune by."""
    test_examples: Count | None = None
    """Examples of the test split (of GLUE the public dev split), which nothing is chosen by; null: all."""
    max_length: Annotated[Integer, Field(ge=8)] = 256
    """Longest text in tokens; longer ones are cut, long contexts are read in windows."""

    def train_examples_for(self, task: str) -> int | None:
        """Examples that train on one task; None: all."""
        return self.train_examples_of.get(task, self.train_examples)


@dataclass(config=SECTION)
class FullConfig:
    """Full fine-tuning where nothing was searched for."""

    learning_rate: Positive = 2e-5
    """Peak learning rate of AdamW."""
    batch_size: Count = 8
    """Examples per forward pass."""
    accumulation: Count = 1
    """Forward passes per optimizer step."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate rises; then it falls in a line to zero."""
    weight_decay: Number = Field(default=0.01, ge=0)
    """Decoupled weight decay."""


@dataclass(config=SECTION)
class LoRAMethodConfig:
    """LoRA where nothing was searched for, and which modules it adapts."""

    rank: Count = 8
    """Rank r of A and B."""
    alpha: Positive = 16.0
    """Scaling is alpha / rank."""
    dropout: Share = 0.0
    """Dropout before A."""
    learning_rate: Positive = 5e-4
    """Peak learning rate of AdamW."""
    batch_size: Count = 8
    """Examples per forward pass."""
    accumulation: Count = 1
    """Forward passes per optimizer step."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate rises; then it falls in a line to zero."""
    weight_decay: Number = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    target_modules: List[str] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    """Names of the adapted modules, as PEFT reads them."""


@dataclass(config=SECTION)
class TrainingConfig:
    """How long a model is trained, by either method."""

    epochs: Positive = 3.0
    """Passes over the training examples, parts of one too."""
    evaluations: Count = 4
    """Validations in a training, evenly spaced; the last one is at its end."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    save: Literal["all", "adapter", "none"] = "all"
    """What a run keeps: whole models and adapters, adapters alone (with their heads), or neither."""


@dataclass(config=SECTION)
class FullRanges:
    """Where full fine-tuning is searched."""

    learning_rate: LogRange = Field(default_factory=lambda: [1e-6, 1e-4])
    """Learning rates, smallest and largest."""
    batch_size: Choices = Field(default_factory=lambda: [4, 8, 16])
    """Batch sizes to choose from."""
    accumulation: Choices = Field(default_factory=lambda: [1, 2, 4])
    """Accumulations to choose from."""
    warmup: Range = Field(default_factory=lambda: [0.0, 0.2])
    """Warm-ups, smallest and largest."""
    weight_decay: LogRange = Field(default_factory=lambda: [1e-5, 1e-1])
    """Weight decays, smallest and largest."""


@dataclass(config=SECTION)
class LoRARanges:
    """Where LoRA is searched; warm-up and weight decay stay as in section lora."""

    learning_rate: LogRange = Field(default_factory=lambda: [5e-5, 5e-3])
    """Learning rates, smallest and largest."""
    rank: Choices = Field(default_factory=lambda: [4, 8, 16, 32])
    """Ranks to choose from."""
    alpha: LogRange = Field(default_factory=lambda: [8.0, 64.0])
    """Alphas, smallest and largest."""
    dropout: Range = Field(default_factory=lambda: [0.0, 0.2])
    """Dropouts, smallest and largest."""
    batch_size: Choices = Field(default_factory=lambda: [4, 8])
    """Batch sizes to choose from."""
    accumulation: Choices = Field(default_factory=lambda: [1, 2])
    """Accumulations to choose from."""


@dataclass(config=SECTION)
class SearchConfig:
    """The search for each task's and method's hyperparameters, on validation examples."""

    trials: Annotated[Integer, Field(ge=0)] = 10
    """Trials per task and method, of all processes together; 0: none, runs take what sections full and lora say."""
    epochs: Positive | None = None
    """Passes of a trial over its examples; null: as a run makes."""
    train_examples: Count | None = None
    """Examples a trial trains on; null: as a run does."""
    startup_trials: Annotated[Integer, Field(ge=0)] = 5
    """Trials that are drawn at random, and not pruned, before TPE and the median pruner have something to go by."""
    seed: Seed = 0
    """Seed of the search, and of every trial's training."""
    full: FullRanges = Field(default_factory=FullRanges)
    lora: LoRARanges = Field(default_factory=LoRARanges)


@dataclass(config=SECTION)
class ProbesConfig:
    """Texts by which representations are compared."""

    count: Annotated[Integer, Field(ge=5)] = 64
    """How many: test inputs, the same for every method and seed of a task; unbiased CKA needs five or more."""
    every_steps: Count = 50
    """Optimizer steps between two recordings; the untrained model and the end are recorded in any case."""


@dataclass(config=SECTION)
class ChecksConfig:
    """What shows that models can learn and that tasks hold something to learn."""

    overfit_examples: Count = 100
    """Examples a model has to learn by heart."""
    overfit_epochs: Positive = 20.0
    """Most passes over them."""
    overfit_score: Share = 0.95
    """Share of them that counts as by heart."""


@dataclass(config=SECTION)
class DeploymentConfig:
    """What serving is measured with."""

    models: Annotated[List[Literal["base", "random-100m"]], Field(min_length=1), AfterValidator(_distinct)] = Field(
        default_factory=lambda: ["base"]
    )
    """base: the study's base, where it is a causal language model; random-100m: a Llama of 110 million random weights, made on the spot."""
    backends: Annotated[List[Literal["peft", "functional", "vllm"]], Field(min_length=1), AfterValidator(_distinct)] = Field(
        default_factory=lambda: ["peft", "functional", "vllm"]
    )
    """peft: transformers and PEFT; functional: this package's batch of adapters; vllm: vLLM, where it is installed."""
    batch_sizes: Choices = Field(default_factory=lambda: [1, 2, 4, 8, 16])
    """Requests per batch."""
    adapters: Choices = Field(default_factory=lambda: [2, 4, 8, 32])
    """Adapters side by side in one batch."""
    rank: Count = 8
    """Rank of the adapters that serve."""
    prompt_tokens: Count = 32
    """Tokens of a request."""
    new_tokens: Count = 16
    """Tokens of an answer."""
    repeats: Count = 20
    """Timed batches for each figure, in rounds through all of them."""
    minutes: Positive = 3.0
    """No further round begins after this long with one model and backend; five are made in any case."""


@dataclass(config=SECTION)
class HypothesesConfig:
    """What is tested, and against which margins."""

    accuracy_margin: Share = 0.03
    """H1: LoRA's score falls short of full fine-tuning's by at most this share of it."""
    drift_reduction: Share = 0.20
    """H2: LoRA drifts less than full fine-tuning by at least this share."""
    overhead: Share = 0.30
    """H3: serving adapters takes longer than a merged model by at most this share."""
    serving_backend: Literal["peft", "functional", "vllm"] = "peft"
    """H3: the backend it speaks of; the model is the first of deployment.models."""
    serving_adapters: Count = 1
    """H3: adapters side by side it speaks of, 1 or one of deployment.adapters."""
    alpha: Annotated[Number, Field(gt=0, lt=1)] = 0.05
    """Level of the tests, of all three together."""


@dataclass(config=SECTION)
class StudyConfig:
    """A whole study."""

    tasks: Annotated[List[Annotated[str, AfterValidator(path_part)]], Field(min_length=1), AfterValidator(_distinct)] = Field(
        default_factory=lambda: ["increment-digits-brackets", "reverse-lower-brackets", "kind-first-brackets"]
    )
    """Tasks: mrpc, sst2, rte, squad_v2, or tasks of MicroZoo."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    architecture: Literal["decoder", "encoder"] = "decoder"
    """Whether the base is a causal language model or an encoder such as BERT."""
    data: str | None = None
    """Folder with GLUE's folders MRPC, SST-2, RTE; null: the hub."""
    squad: str | None = None
    """Folder with SQuAD 2.0's train-v2.0.json and dev-v2.0.json, or one such file, a third of whose articles test; null: the hub."""
    methods: Annotated[List[Method], Field(min_length=1), AfterValidator(_distinct)] = Field(default_factory=lambda: ["full", "lora"])
    """full, lora."""
    seeds: Annotated[List[Seed], Field(min_length=1), AfterValidator(_distinct)] = Field(default_factory=lambda: [0, 1, 2])
    """One run per task, method and seed; claims about seeds need seven."""
    sizes: SizesConfig = Field(default_factory=SizesConfig)
    full: FullConfig = Field(default_factory=FullConfig)
    lora: LoRAMethodConfig = Field(default_factory=LoRAMethodConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    checks: ChecksConfig = Field(default_factory=ChecksConfig)
    search: SearchConfig = Field(default_factory=SearchConfig)
    probes: ProbesConfig = Field(default_factory=ProbesConfig)
    deployment: DeploymentConfig = Field(default_factory=DeploymentConfig)
    hypotheses: HypothesesConfig = Field(default_factory=HypothesesConfig)

    def dump(self) -> str:
        """The config as YAML, every field of it."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def build_study(values: Mapping[str, Any], source: str = "config") -> StudyConfig:
    """Make a config from nested values, checked and coerced by type.

    Raises:
        InputError: All faults together: unknown keys (with near matches), wrong types, values out of range.
    """
    return read_as(StudyConfig, values, source)


def describe_study() -> dict[str, tuple[Any, Any, str]]:
    """Dotted name -> (type, default, docstring) of every field of a study."""
    return describe(StudyConfig)


def study_presets() -> list[str]:
    """The studies that come with the package."""
    return names_in(_folder())


def study_values(name: str) -> dict[str, Any]:
    """The values a preset file sets. InputError lists the presets there are."""
    return values_in(_folder(), name, f"unknown study config {name!r}; give a YAML file or one of")


def _folder() -> Path:
    return preset_folder() / "study"
