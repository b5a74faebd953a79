"""Recorded stages that can be run again: what their records say, the command that repeats them, and what it came to.

A zoo, a run of the study of LoRA, what `llgbm train` and `llgbm train-delta-only` trained, a cache of deltas, and an evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from llgbm.checking import RECORD, read_as, shown
from llgbm.config import ExperimentConfig, build
from llgbm.delta import DeltaCache
from llgbm.dotted import flatten, merge
from llgbm.errors import InputError
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.evaluation.task_eval import read_evaluation
from llgbm.files import absolute, read_json
from llgbm.studies.lora import STUDY_FILE, LoraStage
from llgbm.studies.stage import Stage, perplexity, read_record, tensor_hash, tensor_hashes
from llgbm.tracking.comparison import RunRecord
from llgbm.tracking.record import RECORD_FILE, RUN_CONFIG, read_metrics
from llgbm.training.checkpoints import KINDS
from llgbm.zoo.manifest import is_zoo, load_manifest, read_manifest


@dataclass(frozen=True, kw_only=True)
class ZooStage(Stage):
    """Teachers of a zoo."""

    kind: str = "zoo"

    @classmethod
    def open(cls, folder: Path) -> "ZooStage":
        """InputError where its config is not recorded."""
        recorded = read_json(folder / RECORD_FILE).get("config")
        if recorded is None:
            raise InputError(
                f"{folder / RECORD_FILE}: records no config, so the zoo cannot be built again; build it with 'llgbm zoo build'"
            )
        together = load_manifest(folder).get("zoo", {}).get("adapters_per_batch")
        config = build(merge({}, recorded), source=f"{folder / RECORD_FILE}")
        zoo = replace(config.zoo, adapters_per_batch=together or config.zoo.adapters_per_batch)
        return cls(folder=folder, config=replace(config, zoo=zoo))

    def command(self, place: Path) -> list[str]:
        config = self.config.save(place / "config.yaml")
        return ["zoo", "build", "--config", str(config), "--zoo", str(place / self.writes), "--quiet", "--json"]

    def read(self, folder: Path, name: str) -> RunRecord:
        manifest, (environment, settings, points) = read_manifest(folder), read_record(self, folder)
        settings["batches"] = [list(batch) for batch in manifest.batches]
        metrics = {f"exact_match {t.path}": t.exact_match for t in manifest.teachers}
        metrics |= {f"steps {t.path}": t.steps for t in manifest.teachers}
        return RunRecord(name, environment, settings, tensor_hashes(folder, [folder]), metrics, (), points)


@dataclass(frozen=True, kw_only=True)
class TrainingStage(Stage):
    """A network that was trained."""

    @classmethod
    def open(cls, folder: Path, kind: str) -> "TrainingStage":
        """A finished run's; its kind is one of `KINDS`."""
        return cls(folder=folder, config=ExperimentConfig.load(folder / RUN_CONFIG), kind=kind)

    def command(self, place: Path) -> list[str]:
        """A predictor computes its deltas anew, too; no tracker and no store hears of it."""
        quiet = {"training": replace(self.config.training, report_to="none"), "tracking": replace(self.config.tracking, store=None)}
        config = replace(self.config, delta_cache_dir=str(place / "deltas"), **quiet).save(place / "config.yaml")
        verb = ["train-delta-only", "--variant", "b2"] if self.kind == "predictor" else ["train", "--network", self.kind]
        return [*verb, "--config", str(config), "--run", str(place / self.writes), "--quiet", "--json"]

    def read(self, folder: Path, name: str) -> RunRecord:
        environment, settings, points = read_record(self, folder)
        curve = tuple(read_metrics(folder / "metrics.jsonl"))
        metrics = {**read_json(folder / "training.json"), **core_metrics(curve)}
        artifacts = tensor_hashes(folder, [folder / self.kind, folder / "checkpoints"])  # later stages write beside them
        return RunRecord(name, environment, settings, artifacts, metrics, curve, points)


@checked(frozen=True, config=RECORD)
class DeltaCall:
    """What `llgbm compute-deltas` was asked for, beside its config."""

    adapters: str
    layers: str | None
    tokens: str | None


@checked(frozen=True, config=RECORD)
class DeltaMetadata:
    """What the `metadata.json` of a cache holds at least."""

    config: dict[str, Any]
    call: DeltaCall


@dataclass(frozen=True, kw_only=True)
class DeltaStage(Stage):
    """A cache of deltas, as its last call left it; other folders' adapters in it are left out."""

    kind: str = "deltas"
    call: DeltaCall

    @classmethod
    def open(cls, folder: Path) -> "DeltaStage":
        """InputError where the cache does not record how it was filled."""
        again = "not all that it takes to compute deltas again; 'llgbm compute-deltas' records it, and keeps what is there"
        known = read_as(DeltaMetadata, read_json(folder / RECORD_FILE), f"{folder / RECORD_FILE}: {again}")
        device = DeltaCache(folder).manifest["config"].get("base", {}).get("device", "cpu")
        config = build(merge({}, {**known.config, "model.device": device}), source=f"{folder / RECORD_FILE}")
        return cls(folder=folder, config=config, call=known.call)

    def command(self, place: Path) -> list[str]:
        config, asked = self.config.save(place / "config.yaml"), {"--layers": self.call.layers, "--tokens": self.call.tokens}
        chosen = [part for flag, value in asked.items() if value is not None for part in (flag, value)]
        folders = ["--zoo", self.call.adapters, "--deltas", str(place / self.writes)]
        return ["compute-deltas", "--config", str(config), *folders, *chosen, "--quiet", "--json"]

    def read(self, folder: Path, name: str) -> RunRecord:
        cache, (environment, settings, points) = DeltaCache(folder), read_record(self, folder)
        settings |= {f"measured {key}": value for key, value in cache.manifest["config"].items() if key != "base"}
        named = ((self._inside(path, record), record) for path, record in cache.manifest["adapters"].items())
        records = {adapter: record for adapter, record in named if adapter}
        settings |= {f"content {adapter}": record["key"] for adapter, record in records.items()}
        artifacts = {adapter: tensor_hash(folder / record["file"]) for adapter, record in records.items()}
        if (base := cache.manifest.get("base")) is not None:
            artifacts["the base itself"] = tensor_hash(folder / base["file"])
        return RunRecord(name, environment, settings, artifacts, {}, (), points)

    def _inside(self, path: str, record: Mapping[str, Any]) -> str | None:
        """An adapter's place below the folder whose deltas were asked for; None elsewhere."""
        place, top = Path(record.get("place") or absolute(path)), Path(self.call.adapters)
        return place.relative_to(top).as_posix() if place.is_relative_to(top) else None


@checked(frozen=True, config=RECORD)
class EvaluationMade:
    """How an evaluation says that it was made."""

    run: str | None
    zoo: str
    choices: dict[str, Any]
    inputs: dict[str, str]
    environment: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationStage(Stage):
    """An evaluation of one run, or of methods that need none."""

    kind: str = "evaluation"
    writes = "eval_main.json"
    made: EvaluationMade

    @classmethod
    def open(cls, file: Path) -> "EvaluationStage":
        """InputError where the evaluation does not say how it was made."""
        document = read_evaluation(file)
        made = read_as(EvaluationMade, document.get("made"), f"{file}: does not say how it was made; evaluate again")
        _check_choices(made.choices, file)
        config = build({"model": {"device": document["base"].get("device", "cpu")}}, source=str(file))
        return cls(folder=file, config=config, made=made)

    @property
    def environment(self) -> dict[str, Any]:
        return self.made.environment

    def command(self, place: Path) -> list[str]:
        """The same choices; scores that were kept are scored anew."""
        asked = dict(self.made.choices)
        asked |= asked.pop("base") or {}
        asked |= {"method": asked.pop("foreign"), "model.name": asked.pop("name", None)}
        flags: list[str] = []
        for name, value in asked.items():
            if name not in ("adapters_at_once", "multitask_batch_size") and value not in (None, []):  # what no flag says
                flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        places = ["--run", self.made.run or "none", "--zoo", self.made.zoo, "--output", str(place / self.writes)]
        return ["evaluate", *places, "--scores", str(place / "scores"), *flags, "--quiet", "--json"]

    def read(self, folder: Path, name: str) -> RunRecord:
        document = read_evaluation(folder)
        made = read_as(EvaluationMade, document["made"], str(folder))
        settings = {f"choice {key}": value for key, value in flatten(made.choices).items()}
        settings |= {f"input {key}": value for key, value in made.inputs.items()}
        settings |= {f"questions {row['split']}/{row['task']}": row["n_examples"] for row in document["tasks"]}
        metrics: dict[str, Any] = {
            f"{split}/{method}/{figure}": value
            for split, methods in document["splits"].items()
            for method, figures in methods.items()
            for figure, value in figures.items()
        }
        for row in document["tasks"]:
            for figure in ("exact", "nll"):
                metrics |= {f"{row['split']}/{row['task']}/{method}/{figure}": value for method, value in row[figure].items()}
        return RunRecord(name, self.around(made.environment), settings, {}, metrics, ())


def read_stage(place: str | Path) -> Stage:
    """What a folder or file records. InputError where it is no stage that can be run again, or does not record what that takes."""
    place = Path(place)
    if place.is_file():
        return EvaluationStage.open(place)
    if (place / STUDY_FILE).is_file():
        return LoraStage.open(place)
    kind = next((kind for kind in KINDS if (place / kind).is_dir()), None)
    if kind is not None and (place / RUN_CONFIG).is_file():
        return TrainingStage.open(place, kind)
    if is_zoo(place):
        return DeltaStage.open(place) if _is_cache(place) else ZooStage.open(place)
    raise InputError(
        f"{place}: neither a zoo nor a finished run of 'llgbm train' nor a cache of deltas; give the folder of one, or an eval_<name>.json"
    )


def _check_choices(choices: Mapping[str, Any], file: Path) -> None:
    """InputError where what a file calls choices would be read as other flags: they become a command line."""
    known = {*flatten(asdict(EvaluationConfig())), *(field.name for field in fields(EvaluationConfig))}
    for name, value in flatten(choices).items():
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if name not in known or any(text.startswith("-") for text in texts):
            raise InputError(f"{file}: choice {name} is {shown(value)}, which is no choice of an evaluation; evaluate again")


def core_metrics(curve: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a training's last figures: its loss, the validation's, and perplexities where the losses are of tokens."""
    found: dict[str, float] = {}
    for row in curve:
        named = {"train_loss": row.get("loss"), "eval_loss": row.get("validation/nll")}
        found |= {name: value for name, value in named.items() if value is not None}
        losses = {"train_perplexity": row.get("loss/sft"), "eval_perplexity": row.get("validation/nll")}
        found |= {name: perplexity(value) for name, value in losses.items() if value is not None}
    return found


def _is_cache(folder: Path) -> bool:
    """Whether a folder with a manifest is a cache of deltas: it says how these were measured, and lists no teachers."""
    manifest = read_json(folder / "manifest.json")
    return isinstance(manifest, dict) and "config" in manifest and "teachers" not in manifest
