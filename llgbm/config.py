"""Every choice of an experiment, in one typed tree: dataclasses, YAML in and out, and a hash of what matters.

A field's docstring is also its `--help`. Values come from the dataclass defaults, then a preset or file, then the
command line; `build` checks all of them together and reports every fault at once, by dotted name.
"""

import ast
import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from llgbm.artifacts import hash_json, write_text
from llgbm.errors import InputError


def _number(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A number field with bounds: at least `low`, at most `high`, greater than `above`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


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

    rank: int = _number(16, low=1)
    """Rank r of A and B."""
    alpha: float = _number(32, above=0)
    """Scaling is alpha / rank."""
    dropout: float = _number(0.0, low=0, high=1)
    """Dropout before A; batched teacher training needs 0."""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    """Names of the adapted modules, as PEFT reads them."""


@dataclass
class ProbeConfig:
    """Texts on which base and adapted model are compared."""

    probe_type: str = "generic"
    """generic, math, code, commonsense, diverse, or a text or JSONL file."""
    num_probes: int = _number(5, low=1)
    """How many probes of the set are used."""
    max_length: int = _number(256, low=1)
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
    steps: int = _number(400, low=1)
    """Most optimizer steps of a teacher."""
    batch_size: int = _number(8, low=1)
    """Examples per adapter and step."""
    learning_rate: float = _number(4e-3, above=0)
    """Peak learning rate of AdamW."""
    adapters_per_batch: int = _number(40, low=1)
    """Adapters trained in one forward and backward."""
    solved_exact_match: float = _number(1.0, above=0)
    """A teacher stops once it answers this share of its validation examples; above 1 it never stops early."""
    check_interval: int = _number(25, low=1)
    """Steps between two checks for solved teachers."""


@dataclass
class GeneratorConfig:
    """The hypernetwork and what it reads."""

    size: Literal["s", "m", "l"] = "s"
    """Size preset."""
    encoder: str = "hashing"
    """Text encoder: hashing, base, or sentence-transformers:<directory or hub id>."""
    condition: Literal["description", "prompts", "both"] = "description"
    """What the generator reads in training: descriptions, unlabeled prompts, or either and both in turn."""
    max_prompts: int = _number(8, low=1)
    """Most prompts read at once in training."""


@dataclass
class ObjectiveConfig:
    """Weights of the objective's terms; a term of weight 0 is not computed."""

    weight: float = _number(0.0, low=0)
    """Squared error of A and B."""
    product: float = _number(0.0, low=0)
    """Relative squared error of BA."""
    delta: float = _number(0.0, low=0)
    """Delta fingerprint."""
    trajectory: float = _number(0.0, low=0)
    """Hidden states at response tokens, all layers."""
    kl: float = _number(0.0, low=0)
    """KL to the teacher's predictions at response tokens."""
    sft: float = _number(0.0, low=0)
    """Cross-entropy of the task's examples."""
    norm: float = _number(0.0, low=0)
    """Size of the generated update."""
    variance: float = _number(0.0, low=0)
    """Keeps adapters of different tasks apart."""
    tether: float = _number(0.0, low=0)
    """KL to the base on generic probes."""


@dataclass
class TrainingConfig:
    """Training of the generator."""

    batch_size: int = _number(4, low=1)
    """Adapters per micro-batch."""
    learning_rate: float = _number(3e-5, above=0)
    """Peak learning rate of AdamW."""
    total_steps: int = _number(5000, low=1)
    """Optimizer steps."""
    warmup_steps: int = _number(100, low=0)
    """Steps of linear warm-up; cosine decay follows."""
    max_grad_norm: float = _number(1.0, above=0)
    """Gradients are clipped to this norm."""
    weight_decay: float = _number(0.01, low=0)
    """Decoupled weight decay."""
    lambda_delta: float = _number(1.0, low=0)
    """Weight of all behavioral terms together."""
    lambda_schedule: Literal["constant", "linear", "cosine", "step"] = "linear"
    """How that weight rises over the first lambda_warmup_steps."""
    lambda_warmup_steps: int = _number(500, low=0)
    """Steps until the behavioral terms have their full weight."""
    schedules: list[str] = field(default_factory=list)
    """Schedules of single terms, each as `term:schedule` (for example `product:step`); they replace lambda_schedule there."""
    delta_loss_type: Literal["mse", "cosine", "combined"] = "mse"
    """Distance between delta fingerprints."""
    delta_batch_size: int = _number(2, low=1)
    """Adapters per step whose fingerprints are compared."""
    tasks_per_step: int = _number(16, low=1)
    """Adapters generated per step."""
    examples_per_task: int = _number(4, low=1)
    """Examples of each task per step, for terms that need responses."""
    train_examples: int = _number(64, low=1)
    """Examples of each task the objective draws from; teachers' predictions on them are computed once."""
    kl_top_k: int = _number(0, low=0)
    """Compare the teachers' k most likely tokens; 0 compares the whole vocabulary."""
    target_cache_gb: float = _number(4.0, low=0)
    """Memory for the teachers' outputs in GiB; if they need more, they are computed in every step."""
    validation_fraction: float = _number(0.1, low=0, high=0.9)
    """Share of the seen tasks held back to choose the checkpoint."""
    max_train_tasks: int | None = _number(None, low=1)
    """Train on at most this many seen tasks."""
    gradient_checkpointing: bool = False
    """Recompute the base's activations in the backward pass."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass."""
    log_interval: int = _number(10, low=1)
    """Steps between two lines of metrics."""
    save_interval: int = _number(500, low=1)
    """Steps between two checkpoints."""
    eval_interval: int = _number(100, low=1)
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
    seed: int = _number(42, low=0)
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
    return {name: _coerced(value, kinds[name][0]) for name, value in values.items() if name not in UNSCIENTIFIC}


def build(values: Mapping[str, Any], source: str = "config") -> ExperimentConfig:
    """Make a config from nested values, checked and coerced by type.

    Raises:
        InputError: All faults together: unknown keys (with near matches), wrong types, values out of range.
    """
    faults: list[str] = []
    config = _build(ExperimentConfig, values, "", faults)
    if faults:
        raise InputError(f"{source}: " + "; ".join(faults))
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; InputError for a missing file, bad syntax or a key that stands twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a YAML config file") from error
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of config fields, found {type(values).__name__}")
    return values or {}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted name -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def merge(base: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with dotted overrides on top."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for name, value in dotted.items():
        *sections, key = name.split(".")
        place = merged
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return merged


@cache
def describe_fields(section: type = ExperimentConfig, prefix: str = "") -> dict[str, tuple[Any, Any, str]]:
    """Dotted name -> (type, default, docstring) of every leaf field."""
    described: dict[str, tuple[Any, Any, str]] = {}
    hints, texts, defaults = typing.get_type_hints(section), _field_docstrings(section), section()
    for entry in dataclasses.fields(section):
        kind = hints[entry.name]
        if dataclasses.is_dataclass(kind):
            described |= describe_fields(typing.cast(type, kind), f"{prefix}{entry.name}.")
        else:
            described[prefix + entry.name] = (kind, getattr(defaults, entry.name), texts.get(entry.name, ""))
    return described


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


def _build(section: type, values: Any, prefix: str, faults: list[str]) -> Any:
    result = section()
    if not isinstance(values, Mapping):
        faults.append(f"{prefix.rstrip('.')} must be a mapping, found {values!r}")
        return result
    hints = typing.get_type_hints(section)
    entries = {entry.name: entry for entry in dataclasses.fields(section)}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in entries:
            near = difflib.get_close_matches(str(key), entries, n=1)
            faults.append(f"unknown key {name}" + (f" (did you mean {prefix}{near[0]}?)" if near else ""))
        elif dataclasses.is_dataclass(hints[key]):
            setattr(result, key, _build(typing.cast(type, hints[key]), value, f"{name}.", faults))
        else:
            setattr(result, key, _checked(name, value, hints[key], entries[key].metadata, faults))
    return result


def _checked(name: str, value: Any, kind: Any, bounds: Mapping[str, Any], faults: list[str]) -> Any:
    try:
        coerced = _coerced(value, kind)
    except (TypeError, ValueError):
        faults.append(f"{name} must be {type_name(kind)}, found {value!r}")
        return value
    if isinstance(coerced, int | float) and not isinstance(coerced, bool):
        fault = _out_of_range(coerced, bounds)
        if fault:
            faults.append(f"{name} must be {fault}, found {value!r}")
    return coerced


def _out_of_range(value: float, bounds: Mapping[str, Any]) -> str:
    if not math.isfinite(value):
        return "finite"
    low, high, above = bounds.get("low"), bounds.get("high"), bounds.get("above")
    if low is not None and value < low:
        return f"at least {low}"
    if high is not None and value > high:
        return f"at most {high}"
    return f"greater than {above}" if above is not None and value <= above else ""


def _coerced(value: Any, kind: Any) -> Any:
    """The value as the annotated type; TypeError or ValueError if it is not one."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        value = {False: "no"}.get(value, value) if isinstance(value, bool) else value  # YAML reads a bare `no` as False
        if value not in typing.get_args(kind):
            raise ValueError
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _coerced(value, next(part for part in typing.get_args(kind) if part is not types.NoneType))
    if origin is list:
        if not isinstance(value, list | tuple):
            raise TypeError
        return [_coerced(item, typing.get_args(kind)[0]) for item in value]
    if kind is float and isinstance(value, str):
        return float(value)  # YAML reads 3e-4 as a string
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return value


def type_name(kind: Any) -> str:
    """A type as a person would say it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_name(part) for part in parts)
    if origin is list:
        return f"a list of {type_name(parts[0])}"
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false", types.NoneType: "null"}.get(kind, str(kind))


def _field_docstrings(section: type) -> dict[str, str]:
    """Field name -> the string literal that follows it in the source."""
    body = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        one.target.id: two.value.value
        for one, two in zip(body.body, body.body[1:], strict=False)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        if isinstance(two, ast.Expr) and isinstance(two.value, ast.Constant) and isinstance(two.value.value, str)
    }


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
