"""The study of LoRA: one adapter of one task, fine-tuned by the zoo's trainer in a process of its own, to see whether it repeats."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from safetensors.torch import save
from torch import Tensor

from llgbm.checking import RECORD, Integer, read_as
from llgbm.config import ExperimentConfig, LoRAConfig, ModelConfig, Seed, ZooConfig, content
from llgbm.errors import InputError
from llgbm.files import read_json, write_bytes, write_json
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import target_shapes, write_adapter
from llgbm.matching import score_answers
from llgbm.optimizer_state import optimizer_tensors
from llgbm.progress import ProgressCallback
from llgbm.scoring import score
from llgbm.studies.stage import Stage, perplexity, read_record, tensor_hashes
from llgbm.tracking.comparison import RunRecord
from llgbm.tracking.environment import set_seed
from llgbm.tracking.record import ExperimentLogger, read_metrics
from llgbm.tracking.validation import look_up
from llgbm.zoo.base import load_configured
from llgbm.zoo.named import MICRO, SMOLLM2, loadable_name, smollm2_file
from llgbm.zoo.suites import load_suite
from llgbm.zoo.trainer import Lesson, TeacherGroup

STUDY_FILE = "lora.json"
USED = ("model.", "lora.", "zoo.", "seed", "input ")
"""How the names of settings begin that decide what comes out; a new field of other sections makes no record obsolete."""
BASES: Mapping[str, tuple[str, ZooConfig]] = {
    MICRO: ("increment-digits-plain", ZooConfig(suite="micro", steps=80)),
    SMOLLM2: (
        "first-plain-quotes",
        ZooConfig(suite="words", steps=100, batch_size=2, learning_rate=1e-3, schedule="linear", max_grad_norm=1.0),
    ),
}
"""Base -> its task, and how an adapter is trained there."""
Count = Annotated[Integer, Field(ge=1)]


@checked(frozen=True, config=RECORD)
class LoraStudy:
    """What is trained."""

    base: str
    task: str
    steps: Count
    examples: Count = 200
    """Train examples, the task's first."""
    rank: Count = 8
    seed: Seed = 42

    @property
    def config(self) -> ExperimentConfig:
        """The same as an experiment's config; no adapter stops early."""
        zoo = replace(BASES[self.base][1], steps=self.steps, seeds=[self.seed])
        return ExperimentConfig(model=ModelConfig(self.base), lora=LoRAConfig(rank=self.rank), zoo=zoo, seed=self.seed)


def make_study(base: str | None = None, **asked: Any) -> LoraStudy:
    """The study as asked for; None is the default: the base smollm2 where its package is installed, else micro.

    Raises:
        InputError: The base is none of `BASES`, or a number is out of range.
    """
    base = base or (MICRO if smollm2_file() is None else SMOLLM2)
    if base not in BASES:
        raise InputError(f"--base {base}: the study of LoRA has settings for {' and '.join(BASES)}; give one of them")
    task, zoo = BASES[base]
    given = {name: value for name, value in asked.items() if value is not None}
    return read_as(LoraStudy, {"base": base, "task": task, "steps": zoo.steps, **given}, "the study of LoRA")


def train_lora(study: LoraStudy, folder: str | Path, progress: ProgressCallback | None = None) -> None:
    """Train once; write adapter, optimizer, random states, losses, figures and record into a folder.

    Raises:
        InputError: The folder is not empty, the suite has no such task, or the base cannot be loaded.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; give a new folder")
    config = study.config
    suite = load_suite(config.zoo.suite)
    task = suite[study.task]
    set_seed(study.seed)
    points = {"before": look_up(study.seed, "cpu")}
    base = load_configured(config.model)
    framing = Framing.of(base, suite, config.zoo)
    train, test = framing.batch(framing.of_task(task, "train")[: study.examples]), framing.batch(framing.of_task(task, "test"))
    functional = FunctionalLoRA(base.model, target_shapes(base.model, config.lora.target_modules))
    group = TeacherGroup(functional, [Lesson(train, test, study.seed, task.name)], config.lora, config.zoo, framing.pad)
    with ExperimentLogger(folder.parent, folder.name) as record:
        record.log_config(content(config))
        record.log_inputs(base=base.content_hash, suite=suite.content_hash)
        write_json(folder / STUDY_FILE, asdict(study))
        for step in range(1, study.steps + 1):
            record.log_metrics(step, {"loss": float(group.step(step))})
            if progress:
                progress(step, study.steps)
        group.retire(study.steps)
        factors = group.result().factors
        losses = {"train": score(functional, factors, train).nll, "eval": score(functional, factors, test).nll}
        figures = {f"{part}_loss": nll for part, nll in losses.items()} | {
            f"{part}_perplexity": perplexity(x) for part, x in losses.items()
        }
        exact = score_answers(functional, factors, [test], framing)[0].exact_match
        write_adapter(folder / "adapter", factors, base_name=loadable_name(base.name), fan_in_fan_out=functional.fan_in_fan_out)
        write_bytes(folder / "optimizer.safetensors", save(optimizer_tensors(group.optimizer)))
        write_bytes(folder / "rng.safetensors", save({"order": group.orders[0].get_state(), **_random_states()}))
        write_json(folder / "training.json", {**figures, "exact_match": exact})
        record.log_details(points={**points, "after": look_up(study.seed, "cpu", again=True)})


@dataclass(frozen=True, kw_only=True)
class LoraStage(Stage):
    """A run of the study, or the study before its first run."""

    kind: str = "lora"
    study: LoraStudy

    @classmethod
    def of(cls, study: LoraStudy) -> "LoraStage":
        """A study that is run for the first time."""
        return cls(folder=Path("lora"), config=study.config, study=study)

    @classmethod
    def open(cls, folder: Path) -> "LoraStage":
        """InputError where the file is another's."""
        study = read_as(LoraStudy, read_json(folder / STUDY_FILE), f"{folder / STUDY_FILE}: not of the study of LoRA")
        return cls(folder=folder, config=study.config, study=study)

    @property
    def environment(self) -> dict[str, Any]:
        """Of the recorded run; none before the first."""
        return super().environment if (self.folder / STUDY_FILE).is_file() else {}

    def command(self, place: Path) -> list[str]:
        flags = [part for name, value in asdict(self.study).items() for part in (f"--{name}", str(value))]
        return ["reproduce", "lora", *flags, "--once", str(place / self.writes), "--quiet", "--json"]

    def read(self, folder: Path, name: str) -> RunRecord:
        environment, settings, points = read_record(self, folder)
        settings = {name: value for name, value in settings.items() if name.startswith(USED)}
        settings |= {f"study {key}": value for key, value in read_json(folder / STUDY_FILE).items()}
        curve = tuple(read_metrics(folder / "metrics.jsonl"))
        return RunRecord(name, environment, settings, tensor_hashes(folder, [folder]), read_json(folder / "training.json"), curve, points)


def _random_states() -> dict[str, Tensor]:
    """Of the generators that all share; the data order has its own."""
    state: Any = np.random.get_state(legacy=False)
    numpy = torch.from_numpy(np.append(state["state"]["key"].astype(np.int64), state["state"]["pos"]))
    return {"python": torch.tensor(random.getstate()[1]), "numpy": numpy, "torch": torch.get_rng_state()}
