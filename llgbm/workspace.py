"""A zoo opened for use: its teachers, their base, and what was trained on them, each seen to belong to the others."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llgbm.config import ExperimentConfig
from llgbm.dotted import flatten
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import target_shapes
from llgbm.models.delta_predictor import DeltaPredictor
from llgbm.models.ensemble import load_generator
from llgbm.models.soft_prompt import SoftPromptWriter
from llgbm.models.writer import AdapterWriter
from llgbm.zoo.base import Base, BaseOptions, check_base, load_recorded
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.suites import load_suite


@dataclass(kw_only=True)
class Workspace:
    """A zoo, its base ready for adapters, and perhaps a generator, a predictor of fingerprints and a soft prompt that belong to them."""

    zoo: TeacherZoo
    base: Base
    functional: FunctionalLoRA
    """The base with slots at the modules that the zoo's teachers and the generator adapt."""
    generator: AdapterWriter | None = None
    predictor: DeltaPredictor | None = None
    soft_prompt: SoftPromptWriter | None = None

    def parts(self) -> dict[str, Any]:
        """What it was made of, to make something of that has more."""
        return {entry.name: getattr(self, entry.name) for entry in fields(Workspace)}

    @cached_property
    def framing(self) -> Framing:
        """How the base reads examples."""
        return self.zoo.framing(self.base)

    @cached_property
    def roomy_framing(self) -> Framing:
        """The same with the base's whole context, for what is read besides an example: how long examples may be is no limit on that."""
        return self.zoo.framing(self.base, whole_context=True)


def open_workspace(
    zoo_folder: str | Path,
    checkpoint: str | Path | None = None,
    predictor: str | Path | None = None,
    options: BaseOptions | None = None,
    soft_prompt: str | Path | None = None,
) -> Workspace:
    """Open a zoo: everything that trains, evaluates or composes starts here.

    Args:
        zoo_folder: The zoo; it says which base its teachers were trained on.
        checkpoint: A generator's run folder, `generator/` folder or checkpoint.
        predictor: A predictor's run folder, `predictor/` folder or checkpoint.
        soft_prompt: A run folder of a writer of soft prompts, its `soft_prompt/` folder or checkpoint.
        options: Another place, precision or device of the base than the zoo recorded, and the memory that may be taken.

    Raises:
        InputError: No zoo, generator or predictor there, the zoo has no suite, or one of them, or the base as it is found now, belongs to
            another base.
    """
    zoo, asked = TeacherZoo.load(zoo_folder), options or BaseOptions()
    _ = zoo.suite_entry
    generator = None if checkpoint is None else load_generator(checkpoint)
    forecaster = None if predictor is None else DeltaPredictor.from_pretrained(predictor)
    writer = None if soft_prompt is None else SoftPromptWriter.from_pretrained(soft_prompt)
    base = load_recorded(f"zoo {zoo.folder}", zoo.base, asked)
    for what, network in (
        (f"generator {checkpoint}", generator),
        (f"predictor {predictor}", forecaster),
        (f"soft prompt {soft_prompt}", writer),
    ):
        if network is not None and network.spec.base is not None:
            check_base(what, network.spec.base, base, any_dtype=asked.dtype is not None)
    if generator is not None:
        generator = generator.to(base.model.device)
    if writer is not None:
        writer = writer.to(base.model.device)
    names = [*target_shapes(base.model, zoo.manifest["lora"]["target_modules"]), *(generator.spec.shapes if generator else ())]
    functional = FunctionalLoRA(base.model, dict.fromkeys(names), asked.memory_gb)
    return Workspace(zoo=zoo, base=base, functional=functional, generator=generator, predictor=forecaster, soft_prompt=writer)


def settle(config: ExperimentConfig, zoo: TeacherZoo, given: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """The config with what a zoo decides as the zoo has it: the base, its precision, sections lora and zoo.

    Where the base lies and on which device it runs stay choices: given ones are kept, others are the zoo's.

    Args:
        config: With any values for these.
        zoo: What will be trained on.
        given: Dotted name -> value of what was asked for in so many words; None keeps the config's place and device of the base.

    Raises:
        InputError: Something given is not what the zoo has.
    """
    manifest, recorded = zoo.manifest, zoo.base
    made_with = {name: value for name, value in manifest["zoo"].items() if name in vars(config.zoo)}
    seeds = sorted({teacher.seed for teacher in zoo.teachers})
    zoo_config = replace(config.zoo, **made_with, suite=zoo.suite_entry.source, seeds=seeds)
    model = replace(config.model, dtype=recorded.dtype)
    if given is not None:
        places = {"name": recorded.name, "revision": recorded.revision, "device": recorded.device}
        model = replace(model, **{name: value for name, value in places.items() if f"model.{name}" not in given})
    settled = replace(config, model=model, lora=replace(config.lora, **manifest["lora"]), zoo=zoo_config)
    _refuse_others(config, settled, zoo, given or {})
    return settled


def _refuse_others(config: ExperimentConfig, settled: ExperimentConfig, zoo: TeacherZoo, given: Mapping[str, Any]) -> None:
    asked, found = flatten(asdict(config)), flatten(asdict(settled))
    for name in given:
        same = asked[name] == found[name]
        if name == "zoo.suite":
            same = same or load_suite(asked[name]).content_hash == zoo.suite_entry.hash
        if not same:
            raise InputError(
                f"{name} is {asked[name]}, but zoo {zoo.folder} was made with {found[name]}, and a zoo decides that; "
                "leave it out, or build a zoo with it"
            )
