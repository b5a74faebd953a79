"""Every choice of an experiment, in one typed tree: dataclasses, YAML in and out, and a hash of what matters.

A field's docstring is also its `--help`. Values come from the dataclass defaults, then a preset or file, then the
command line; `build` checks all of them together and reports every fault at once, by dotted name.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from llgbm.errors import InputError
from llgbm.files import hash_json, write_text
from llgbm.schema import coerced, describe, flatten, from_values, number, read_yaml


@dataclass
class ModelConfig:
    """The frozen base."""

    name: str = "micro"
    """Hugging Face directory or hub id, or `micro`, the built-in base."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the base's weights."""
    device: str = "cpu"
    """Where the base runs: cpu, cuda, cuda:1, mps."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""


@dataclass
class LoRAConfig:
    """Shape of the adapters."""

    rank: int = number(16, low=1)
    """Rank r of A and B."""
    alpha: float = number(32, above=0)
    """Scaling is alpha / rank."""
    dropout: float = number(0.0, low=0, high=1)
    """Dropout before A; batched teacher training needs 0."""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    """Names of the adapted modules, as PEFT reads them."""


@dataclass
class ProbeConfig:
    """Texts on which base and adapted model are compared."""

    probe_type: str = "generic"
    """generic, math, code, commonsense, diverse, suite:<suite>, answered:<suite>, or a text or JSONL file."""
    num_probes: int = number(5, low=1)
    """How many probes of the set are used."""
    max_length: int = number(256, low=1)
    """Longest probe in tokens; longer ones are cut."""


@dataclass
class DeltaConfig:
    """What of the hidden states a delta keeps."""

    layer_idx: int = -1
    """Layer as in transformers' hidden_states: 0 the embeddings, -1 the last, after the norm."""
    token_idx: int = -1
    """Token of each probe; -1 is the last real one."""
    aggregation: Literal["mean", "max", "concat", "none"] = "mean"
    """How probes are put together; none keeps one delta per probe."""


@dataclass
class ZooConfig:
    """How teachers are trained."""

    suite: str = "micro"
    """Task suite: micro, or a folder of JSONL files."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """One teacher per task and seed."""
    steps: int = number(400, low=1)
    """Most optimizer steps of a teacher."""
    batch_size: int = number(8, low=1)
    """Examples per adapter and step."""
    learning_rate: float = number(2e-3, above=0)
    """Peak learning rate of AdamW."""
    adapters_per_batch: int = number(40, low=1)
    """Adapters trained in one forward and backward."""
    solved_exact_match: float = number(1.0, above=0)
    """A teacher stops once it answers this share of its validation examples; above 1 it never stops early."""
    solved_checks: int = number(2, low=1)
    """In how many checks running it has to."""
    check_interval: int = number(20, low=1)
    """Steps between two checks for solved teachers."""


@dataclass
class GeneratorConfig:
    """The hypernetwork and what it reads."""

    size: Literal["s", "m", "l"] = "s"
    """Size preset."""
    encoder: str = "hashing"
    """Text encoder: hashing, minilm, base, or sentence-transformers:<directory or hub id>."""
    condition: Literal["description", "prompts", "both"] = "description"
    """What the generator reads in training: descriptions, unlabeled prompts, or either and both in turn."""
    max_prompts: int = number(8, low=1)
    """Most prompts read at once in training."""


@dataclass
class ObjectiveConfig:
    """Weights of the objective's terms; a term of weight 0 is not computed."""

    weight: float = number(0.0, low=0)
    """Squared error of A and B."""
    product: float = number(0.0, low=0)
    """Relative squared error of BA."""
    delta: float = number(0.0, low=0)
    """Delta fingerprint."""
    trajectory: float = number(0.0, low=0)
    """Hidden states at response tokens, all layers."""
    kl: float = number(0.0, low=0)
    """KL to the teacher's predictions at response tokens."""
    sft: float = number(0.0, low=0)
    """Cross-entropy of the task's examples."""
    agreement: float = number(0.0, low=0)
    """Tells tasks apart by what their wordings have in common; looks at conditions alone."""
    norm: float = number(0.0, low=0)
    """Size of the generated update."""
    variance: float = number(0.0, low=0)
    """Keeps adapters of different tasks apart."""
    tether: float = number(0.0, low=0)
    """KL to the base on generic probes."""


@dataclass
class TrainingConfig:
    """Training of the generator."""

    batch_size: int = number(4, low=1)
    """Adapters per micro-batch."""
    learning_rate: float = number(3e-5, above=0)
    """Peak learning rate of AdamW."""
    total_steps: int = number(5000, low=1)
    """Optimizer steps."""
    warmup_steps: int = number(100, low=0)
    """Steps of linear warm-up; cosine decay follows."""
    max_grad_norm: float = number(1.0, above=0)
    """Gradients are clipped to this norm."""
    weight_decay: float = number(0.01, low=0)
    """Decoupled weight decay."""
    lambda_delta: float = number(1.0, low=0)
    """Weight of all behavioral terms together."""
    lambda_schedule: Literal["constant", "linear", "cosine", "step"] = "linear"
    """How that weight rises over the first lambda_warmup_steps."""
    lambda_warmup_steps: int = number(500, low=0)
    """Steps until the behavioral terms have their full weight."""
    schedules: list[str] = field(default_factory=list)
    """Schedules of single terms, each as `term:schedule` (for example `product:step`); they replace lambda_schedule there."""
    delta_loss_type: Literal["mse", "cosine", "combined"] = "mse"
    """Distance between delta fingerprints."""
    delta_batch_size: int = number(2, low=1)
    """Adapters per step that read the probes, for the terms delta and tether."""
    tasks_per_step: int = number(16, low=1)
    """Adapters generated per step."""
    examples_per_task: int = number(4, low=1)
    """Examples of each task per step, for terms that need responses."""
    train_examples: int = number(64, low=1)
    """Examples of each task the objective draws from; teachers' predictions on them are computed once."""
    kl_top_k: int = number(0, low=0)
    """Compare the teachers' k most likely tokens; 0 compares the whole vocabulary."""
    target_cache_gb: float = number(4.0, low=0)
    """Memory for the teachers' outputs in GiB; if they need more, they are computed in every step."""
    validation_fraction: float = number(0.1, low=0, high=0.9)
    """Share of the seen tasks held back to choose the checkpoint."""
    max_train_tasks: int | None = number(None, low=1)
    """Train on at most this many seen tasks."""
    gradient_checkpointing: bool = False
    """Recompute the base's activations in the backward pass."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass."""
    log_interval: int = number(10, low=1)
    """Steps between two lines of metrics."""
    save_interval: int = number(500, low=1)
    """Steps between two checkpoints."""
    eval_interval: int = number(100, low=1)
    """Steps between two validations."""
    report_to: Literal["none", "trackio", "tensorboard", "wandb", "mlflow"] = "none"
    """Also send metrics to this tracker."""


@dataclass
class ExperimentConfig:
    """A whole experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    delta: DeltaConfig = field(default_factory=DeltaConfig)
    zoo: ZooConfig = field(default_factory=ZooConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    experiment_name: str = "experiment"
    """Name of the run's folder."""
    seed: int = number(42, low=0)
    """Seed of everything random."""
    output_dir: str = "outputs"
    """Where runs are written."""
    checkpoint_folder: str = "data/teacher_checkpoints"
    """The zoo of teachers."""
    delta_cache_dir: str = "deltas"
    """The cache of deltas."""

    def get_hash(self) -> str:
        """First 8 hex digits of the SHA-256 of `content(self)`."""
        return hash_json(content(self))[:8]

    def save(self, path: str | Path | None = None) -> Path:
        """Write the config as YAML, by default to the run's `config.yaml`."""
        path = Path(path) if path else Path(self.output_dir) / self.experiment_name / "config.yaml"
        write_text(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False))
        return path

    @classmethod
    def load(cls, path: str | Path) -> "ExperimentConfig":
        """Read a config from YAML; what the file does not mention has its default."""
        return build(read_yaml(path), source=str(path))


UNSCIENTIFIC = {
    "experiment_name",
    "output_dir",
    "checkpoint_folder",
    "delta_cache_dir",
    "model.device",
    "training.log_interval",
    "training.save_interval",
    "training.report_to",
    "training.gradient_checkpointing",
    "training.target_cache_gb",
    "zoo.adapters_per_batch",
}
"""Fields that change where, how fast or how visibly an experiment runs, not what it finds."""


def content(config: ExperimentConfig) -> dict[str, Any]:
    """Dotted name -> typed value of everything scientific; equal for equal experiments (alpha=32 and 32.0 are)."""
    kinds = describe_fields()
    values = flatten(dataclasses.asdict(config))
    return {name: coerced(value, kinds[name][0]) for name, value in values.items() if name not in UNSCIENTIFIC}


def build(values: Mapping[str, Any], source: str = "config") -> ExperimentConfig:
    """Make a config from nested values, checked and coerced by type.

    Raises:
        InputError: All faults together: unknown keys (with near matches), wrong types, values out of range.
    """
    faults: list[str] = []
    config = from_values(ExperimentConfig, values, faults)
    if faults:
        raise InputError(f"{source}: " + "; ".join(faults))
    return config


def describe_fields() -> dict[str, tuple[Any, Any, str]]:
    """Dotted name -> (type, default, docstring) of every field of an experiment."""
    return describe(ExperimentConfig)


def preset_folder() -> Path:
    """The folder of preset files: inside an installed package, or `configs/` of a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"


def preset_values(name: str) -> dict[str, Any]:
    """The values a preset file sets. InputError lists the presets there are."""
    known = sorted(path.stem for path in preset_folder().glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(f"unknown config {name!r}; choose one of {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else ""))
    return read_yaml(preset_folder() / f"{name}.yaml")


def get_config(name: str = "delta_multi") -> ExperimentConfig:
    """A preset by name: `baseline`, `delta_multi`, `delta_only`, or another file of `configs/`."""
    return build(preset_values(name), source=f"{name}.yaml")


class _Presets(Mapping[str, ExperimentConfig]):
    """The presets, read from their files when asked for."""

    def __getitem__(self, name: str) -> ExperimentConfig:
        return get_config(name)

    def __iter__(self) -> typing.Iterator[str]:
        return iter(sorted(path.stem for path in preset_folder().glob("*.yaml")))

    def __len__(self) -> int:
        return len(list(iter(self)))


CONFIGS: Mapping[str, ExperimentConfig] = _Presets()
