"""Every choice of an experiment, in one typed tree: dataclasses, YAML in and out, and a hash of what matters.

A field's docstring is also its `--help`. Values come from the dataclass defaults, then a preset or file, then the
command line; `build` checks all of them together and reports every fault at once, by dotted name.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from llgbm.checking import SECTION, Flag, Integer, List, Number, describe, read_as
from llgbm.dotted import flatten
from llgbm.errors import InputError
from llgbm.files import hash_json, read_yaml, write_text
from llgbm.names import path_part

LARGEST_SEED = 2**32 - 1
"""What Python's, NumPy's and torch's generators all take."""
Seed = Annotated[Integer, Field(ge=0, le=LARGEST_SEED)]


Attention = Literal["eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"]


def _no(value: Any) -> Any:
    return "no" if value is False else value  # YAML reads a bare `no` as False


@dataclass(config=SECTION)
class ModelConfig:
    """The frozen base."""

    name: str = "micro"
    """Hugging Face directory or hub id, a GGUF file, `micro`, the built-in base, or `smollm2`."""
    dtype: Literal["float32", "bfloat16", "float16", "int8", "nf4"] = "float32"
    """Precision of the base's weights; int8 and nf4 are 8 and 4 bits by bitsandbytes, for all but embeddings and norms."""
    device: str = "cpu"
    """Where the base runs: cpu, cuda, cuda:1, mps."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    memory_gb: Number | None = Field(default=None, gt=0)
    """Memory that a command may take where the base runs, in GiB and in all; by default what is free."""
    attn_implementation: Attention | None = None
    """How the base computes attention, by transformers' names; by default as transformers chooses, mostly sdpa."""


@dataclass(config=SECTION)
class LoRAConfig:
    """Shape of the adapters."""

    rank: Integer = Field(default=16, ge=1)
    """Rank r of A and B."""
    alpha: Number = Field(default_factory=lambda fields: 2.0 * fields.get("rank", 16), gt=0)
    """Scaling is alpha / rank; twice the rank unless given."""
    dropout: Number = Field(default=0.0, ge=0, le=1)
    """Dropout before A; batched teacher training needs 0."""
    target_modules: List[str] = Field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    """Names of the adapted modules, as PEFT reads them."""


@dataclass(config=SECTION)
class ProbeConfig:
    """Texts on which base and adapted model are compared."""

    probe_type: str = "generic"
    """generic, math, code, commonsense, diverse, suite:<suite>, answered:<suite>, or a text or JSONL file."""
    num_probes: Integer = Field(default=5, ge=1)
    """How many probes of the set are used."""
    max_length: Integer = Field(default=256, ge=1)
    """Longest probe in tokens; longer ones are cut."""


@dataclass(config=SECTION)
class DeltaConfig:
    """What of the hidden states a delta keeps."""

    layer_idx: Integer = -1
    """Layer as in transformers' hidden_states: 0 the embeddings, -1 the last, after the norm."""
    token_idx: Integer = -1
    """Token of each probe; -1 is the last real one."""
    aggregation: Literal["mean", "max", "concat", "none"] = "mean"
    """How probes are put together; none keeps one delta per probe."""


@dataclass(config=SECTION)
class ZooConfig:
    """How teachers are trained."""

    suite: str = "micro"
    """Task suite: micro, words (or words-80, shorter), or a folder of JSONL files."""
    seeds: List[Seed] = Field(default_factory=lambda: [0])
    """One teacher per task and seed."""
    own_start: Flag = False
    """Every teacher starts from an A of its own, as adapters of several people do; by default one per seed."""
    ranks: List[Annotated[Integer, Field(ge=1)]] = Field(default_factory=list)
    """Each teacher has one of these ranks, drawn by its task and seed, at the same scaling; empty: all have lora.rank."""
    steps: Integer = Field(default=400, ge=1)
    """Most optimizer steps of a teacher."""
    batch_size: Integer = Field(default=8, ge=1)
    """Examples per adapter and step."""
    learning_rate: Number = Field(default=2e-3, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up the learning rate stays, or falls in a line to zero at the last of `steps`."""
    adapters_per_batch: Integer = Field(default=40, ge=1)
    """Adapters trained in one forward and backward."""
    solved_exact_match: Number = Field(default=1.0, gt=0)
    """A teacher stops once its validation examples have this score by its task's metric; above 1 it never stops early."""
    solved_checks: Integer = Field(default=2, ge=1)
    """In how many checks running it has to."""
    check_interval: Integer = Field(default=20, ge=1)
    """Steps between two checks for solved teachers."""
    max_length: Integer | None = Field(default=None, ge=2)
    """Longest example in tokens, with its answer; the base's context by default. Controls may read more before it."""
    too_long: Literal["leave_out", "cut_left"] = "leave_out"
    """Longer examples are left out, or cut on the left."""
    end_token: str | None = None
    """What ends an answer instead of the base's end token (of a chat: what its template puts there); one token, a new line is \\n."""
    max_grad_norm: Number | None = Field(default=None, gt=0)
    """Each teacher's gradient is clipped to this norm; by default not."""
    gradient_checkpointing: Flag = False
    """Recompute the base's activations in the backward pass; without it, only where not even one example fits otherwise."""


@dataclass(config=SECTION)
class GeneratorConfig:
    """The hypernetwork and what it reads."""

    size: Literal["s", "m", "l"] = "s"
    """Size preset."""
    attributes: Flag = False
    """Read the attributes that the suite states of seen tasks, and write the sum of what each brings; of no effect without any."""
    slots: Integer = Field(default=1, ge=1)
    """Parts of a condition that are read apart, each by a small trunk of its own, and summed; 1: one pool for everything."""
    slots_share: Number | None = Field(default=None, ge=0)
    """How much slots count beside the regression on attributes, the less the more known words a request has; by default 0.25, or 2 for each
    sentence model beside hashing, whose tokens they alone read."""
    readers: Integer | None = Field(default=None, ge=1)
    """Sets of slots that read attributes beside each other and count in the mean; by default 1, or 3 for each sentence model beside
    hashing."""
    alignment: Flag = False
    """Read attributes by which words their levels bring, too, as far as a request has such words; needs an encoder that knows words."""
    ridge: Integer = Field(default=0, ge=0)
    """Start from a ridge regression to this many directions of the teachers' weights, to which the network adds; 0: start at zero."""
    shrinkage: Number = Field(default=0.01, gt=0)
    """Of that regression: more is steadier where words are new or chatter surrounds them, less where tasks are few."""
    encoder: str = "hashing"
    """Text encoder: hashing, minilm, base, sentence-transformers:<directory or hub id>, or hashing and one or several of the other
    models, joined by +: hashing+minilm, hashing+minilm+base+sentence-transformers:<directory or hub id>."""
    condition: Literal["description", "prompts", "both"] = "description"
    """What the generator reads in training: descriptions, unlabeled prompts, or either and both in turn."""
    max_prompts: Integer = Field(default=8, ge=1)
    """Most prompts read at once in training."""


@dataclass(config=SECTION)
class ObjectiveConfig:
    """Weights of the objective's terms; a term of weight 0 is not computed."""

    weight: Number = Field(default=0.0, ge=0)
    """Squared error of A and B."""
    product: Number = Field(default=0.0, ge=0)
    """Relative squared error of BA."""
    delta: Number = Field(default=0.0, ge=0)
    """Delta fingerprint."""
    trajectory: Number = Field(default=0.0, ge=0)
    """Hidden states at response tokens, all layers."""
    kl: Number = Field(default=0.0, ge=0)
    """KL to the teacher's predictions at response tokens."""
    sft: Number = Field(default=0.0, ge=0)
    """Cross-entropy of the task's examples."""
    agreement: Number = Field(default=0.0, ge=0)
    """Tells tasks apart by what their wordings have in common; looks at conditions alone."""
    attributes: Number = Field(default=0.0, ge=0)
    """Naming a task's attributes from its wordings, where a generator reads them; agreement counts elsewhere."""
    practice: Number = Field(default=0.0, ge=0)
    """Being sure of its own answers on mixed attributes of seen tasks, where a generator reads attributes; begins well after some
    lambda_warmup_steps, with training.schedules practice:step."""
    context: Number = Field(default=0.0, ge=0)
    """KL to a LoRA that reads every request, on the tasks of training.further_tasks, which have no teacher."""
    norm: Number = Field(default=0.0, ge=0)
    """Size of the generated update."""
    variance: Number = Field(default=0.0, ge=0)
    """Keeps adapters of different tasks apart."""
    tether: Number = Field(default=0.0, ge=0)
    """KL to the base on generic probes."""


@dataclass(config=SECTION)
class TrainingConfig:
    """Training of the generator."""

    batch_size: Integer = Field(default=4, ge=1)
    """Adapters per micro-batch."""
    learning_rate: Number = Field(default=3e-5, gt=0)
    """Peak learning rate of AdamW."""
    total_steps: Integer = Field(default=5000, ge=1)
    """Optimizer steps."""
    warmup_steps: Integer = Field(default=100, ge=0)
    """Steps of linear warm-up; cosine decay follows."""
    max_grad_norm: Number = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    weight_decay: Number = Field(default=0.01, ge=0)
    """Decoupled weight decay."""
    lambda_delta: Number = Field(default=1.0, ge=0)
    """Weight of all behavioral terms together."""
    lambda_schedule: Literal["constant", "linear", "cosine", "step"] = "linear"
    """How that weight rises over the first lambda_warmup_steps."""
    lambda_warmup_steps: Integer = Field(default=500, ge=0)
    """Steps until the behavioral terms have their full weight."""
    schedules: List[str] = Field(default_factory=list)
    """Schedules of single terms, each as `term:schedule` (for example `product:step`); they replace lambda_schedule there."""
    delta_loss_type: Literal["mse", "cosine", "combined"] = "mse"
    """Distance between delta fingerprints."""
    delta_batch_size: Integer = Field(default=2, ge=1)
    """Adapters per step that read the probes, for the terms delta and tether."""
    tasks_per_step: Integer = Field(default=16, ge=1)
    """Adapters generated per step."""
    examples_per_task: Integer = Field(default=4, ge=1)
    """Examples of each task per step, for terms that need responses."""
    augment: Number = Field(default=0.0, ge=0, le=1)
    """Share of the texts that training reads with typos, chatter around the request, or without capitals and punctuation."""
    readings: Integer = Field(default=1, ge=1)
    """Other wordings of each task that a step reads where a generator reads attributes; reading costs little beside answering."""
    read_further: Flag = False
    """These readings are of any task, those of further_tasks included, of which four wordings each are embedded; needs objective.context
    and objective.attributes."""
    practice_prior: Number = Field(default=0.0, ge=0)
    """Weight of the base's own log-probabilities as adapters of mixed attributes answer (objective.practice)."""
    practice_interval: Integer = Field(default=0, ge=0)
    """Steps until practice looks again for combinations of attributes that answer alike, one of which then has to yield; 0: never."""
    word_dropout: Number = Field(default=0.0, ge=0, lt=1)
    """Share of a condition's vectors (words, tokens) that training leaves out, drawn anew in every step."""
    train_examples: Integer = Field(default=64, ge=1)
    """Examples of each task the objective draws from; teachers' predictions on them are computed once."""
    kl_top_k: Integer = Field(default=0, ge=0)
    """Compare the teachers' k most likely tokens; 0 compares the whole vocabulary."""
    teacher_cache_gb: Number = Field(default=2.0, ge=0)
    """Memory for the teachers' factors in GiB; if they need more, they are read from disk when they are needed."""
    target_cache_gb: Number = Field(default=4.0, ge=0)
    """Memory for the teachers' outputs in GiB; if they need more, they are computed in every step."""
    validation_fraction: Number = Field(default=0.1, ge=0, le=0.9)
    """Share of the seen tasks held back to choose the checkpoint."""
    max_train_tasks: Integer | None = Field(default=None, ge=1)
    """Train on at most this many seen tasks."""
    further_tasks: str | None = None
    """For objective.context: a suite (name or folder) whose split `seen` has tasks without teachers. One LoRA that reads requests is
    trained on the zoo's seen tasks, and what it answers to these is what adapters learn to answer; their labels are not looked at."""
    gradient_checkpointing: Flag = False
    """Recompute the base's activations in the backward pass."""
    shard_base: Flag = False
    """Spread the base's layers over the processes that train together (FSDP2); the generator is whole in each of them."""
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(_no)] = "no"
    """Precision of the forward pass."""
    log_interval: Integer = Field(default=10, ge=1)
    """Steps between two lines of metrics."""
    save_interval: Integer = Field(default=500, ge=1)
    """Steps between two checkpoints."""
    eval_interval: Integer = Field(default=100, ge=1)
    """Steps between two validations."""
    report_to: Literal["none", "trackio", "tensorboard", "wandb", "mlflow"] = "none"
    """Also send config, metrics, curves and the final table to this tracker."""


@dataclass(config=SECTION)
class TrackingConfig:
    """What is recorded beside results."""

    level: Literal["basic", "standard", "complete"] = "standard"
    """How much of code, packages, system and container a run's record holds."""
    monitor_s: Number = Field(default=5.0, ge=0, le=300)
    """Seconds between samples of processor, memory and GPU in training; 0: none."""
    store: str | None = None
    """Artifact store that gets a copy of what each stage makes, with what it was made from; null: none."""


@dataclass(config=SECTION)
class ExperimentConfig:
    """A whole experiment."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    lora: LoRAConfig = Field(default_factory=LoRAConfig)
    probe: ProbeConfig = Field(default_factory=ProbeConfig)
    delta: DeltaConfig = Field(default_factory=DeltaConfig)
    zoo: ZooConfig = Field(default_factory=ZooConfig)
    generator: GeneratorConfig = Field(default_factory=GeneratorConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    experiment_name: Annotated[str, AfterValidator(path_part)] = "experiment"
    """Name of the run's folder."""
    seed: Seed = 42
    """Seed of everything random."""
    output_dir: str = "outputs"
    """Where runs are written."""
    checkpoint_folder: str = "data/teacher_checkpoints"
    """The zoo of teachers."""
    delta_cache_dir: str = "deltas"
    """The cache of deltas."""

    @property
    def run_folder(self) -> Path:
        """Where the run is written: `output_dir/experiment_name`."""
        return Path(self.output_dir) / path_part(self.experiment_name, "experiment_name")

    def get_hash(self) -> str:
        """First 8 hex digits of the SHA-256 of `content(self)`."""
        return hash_json(content(self))[:8]

    def save(self, path: str | Path | None = None) -> Path:
        """Write the config as YAML, by default to the run's `config.yaml`."""
        path = Path(path) if path else self.run_folder / "config.yaml"
        write_text(path, self.dump())
        return path

    def dump(self) -> str:
        """The config as YAML, every field of it."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)

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
    "model.memory_gb",
    "model.attn_implementation",
    "training.log_interval",
    "training.save_interval",
    "training.report_to",
    "training.gradient_checkpointing",
    "training.shard_base",
    "training.target_cache_gb",
    "training.teacher_cache_gb",
    "tracking.level",
    "tracking.monitor_s",
    "tracking.store",
    "zoo.adapters_per_batch",
    "zoo.gradient_checkpointing",
}
"""Fields that change where, how fast or how visibly an experiment runs, not what it finds."""


def content(config: ExperimentConfig) -> dict[str, Any]:
    """Dotted name -> typed value of everything scientific; equal for equal experiments (alpha=32 and 32.0 are)."""
    return {name: value for name, value in flatten(dataclasses.asdict(config)).items() if name not in UNSCIENTIFIC}


def build(values: Mapping[str, Any], source: str = "config") -> ExperimentConfig:
    """Make a config from nested values, checked and coerced by type.

    Raises:
        InputError: All faults together: unknown keys (with near matches), wrong types, values out of range.
    """
    return read_as(ExperimentConfig, values, source)


def describe_fields() -> dict[str, tuple[Any, Any, str]]:
    """Dotted name -> (type, default, docstring) of every field of an experiment."""
    return describe(ExperimentConfig)


def preset_folder() -> Path:
    """The folder of preset files: inside an installed package, or `configs/` of a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"


def study_names() -> list[str]:
    """The studies that come with the package."""
    return names_in(preset_folder() / "studies")


def preset_values(name: str) -> dict[str, Any]:
    """The values a preset file sets. InputError lists the presets there are."""
    return values_in(preset_folder(), name, f"unknown config {name!r}; choose one of")


def names_in(folder: Path) -> list[str]:
    """The presets in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def values_in(folder: Path, name: str, unknown: str) -> dict[str, Any]:
    """The values a folder's preset sets. InputError, which `unknown` begins, lists those there are."""
    known = names_in(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(f"{unknown} {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else ""))
    return read_yaml(folder / f"{name}.yaml")


def get_config(name: str = "delta_multi") -> ExperimentConfig:
    """A preset by name: `baseline`, `delta_multi`, `delta_only`, or another file of `configs/`."""
    return build(preset_values(name), source=f"{name}.yaml")


class _Presets(Mapping[str, ExperimentConfig]):
    """The presets, read from their files when asked for."""

    def __getitem__(self, name: str) -> ExperimentConfig:
        return get_config(name)

    def __iter__(self) -> Iterator[str]:
        return iter(names_in(preset_folder()))

    def __len__(self) -> int:
        return len(list(iter(self)))


CONFIGS: Mapping[str, ExperimentConfig] = _Presets()
