"""What a study varies, from a file of `configs/studies/`."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from llgbm.checking import SECTION, Integer, List, read_as, shown
from llgbm.config import ExperimentConfig, build, preset_folder, preset_values, study_names
from llgbm.dotted import flatten, merge
from llgbm.errors import InputError
from llgbm.files import read_yaml
from llgbm.names import path_part, twin_key

GENERATED = "generated"
RESULT_FILE = "study.json"
"""In a study's folder: its means, intervals and comparisons."""


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


Values = Annotated[dict[str, Any], BeforeValidator(_or_empty)]
"""Nested config values; may be left empty."""


@dataclass(frozen=True, config=SECTION)
class Study:
    """What is varied, and how each variant is judged."""

    name: str
    config: str
    """The preset every variant starts from."""
    variants: dict[str, Values] = Field(min_length=1)
    """Name -> nested config values on top of the preset and `set`."""
    seeds: List[Integer] = Field(default_factory=lambda: [0, 1, 2])
    set: Values = Field(default_factory=dict)
    """Nested config values for all variants."""
    splits: List[str] = Field(default_factory=list)
    methods: List[str] = Field(default_factory=lambda: ["base", "teacher", GENERATED])
    max_examples: Integer | None = None
    """Test examples per task; all by default."""
    together: bool = False
    """Whether variants are draws of one thing, such as folds, whose mean is a result too."""
    reference: str | None = None
    """The variant the others are compared with, paired by task; with an axis the line, compared at every number."""
    axis: str | None = None
    """What the numbers count, when variants are named `<line>, <number>` and make curves."""
    title: str | None = None
    """What a picture of several studies calls it; its name by default."""

    def folder(self, output_dir: str | Path) -> Path:
        """Where the study is written."""
        return Path(output_dir) / path_part(self.name, "study")

    def place(self, variant: str) -> tuple[str, str]:
        """Line and number of a variant; without an axis the variant itself, and no number."""
        line, _, number = variant.rpartition(", ")
        return (line, number) if self.axis else (variant, "")

    def experiment(self, variant: str, seed: int, overrides: Mapping[str, Any], folder: Path) -> ExperimentConfig:
        """The config of one cell; `overrides` are dotted and win."""
        values = merge(preset_values(self.config), flatten(self.set))
        values = merge(merge(values, flatten(self.variants[variant])), overrides)
        place = {"seed": seed, "experiment_name": cell_name(variant, seed), "output_dir": str(folder)}
        return build(merge(values, place), source=f"study {self.name}, variant {variant}")


def load_study(source: str) -> Study:
    """A study by name, or from a YAML file.

    Raises:
        InputError: No such study, an unknown key, no variants, or a reference that is none of them.
    """
    path = Path(source) if source.endswith((".yaml", ".yml")) else preset_folder() / "studies" / f"{source}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(source, study_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"unknown study {source!r}; {hint}give a YAML file or one of {', '.join(study_names())}")
    values = read_yaml(path)
    if isinstance(values.get("variants"), dict):
        values["variants"] = {str(name): value for name, value in values["variants"].items()}
    study = read_as(Study, {**values, "name": path.stem}, f"study {path}")
    if GENERATED not in study.methods:
        raise InputError(f"study {path}: methods lack {GENERATED!r}, which the study compares")
    _check_cells(study, path)
    astray = next((v for v in study.variants if study.axis and not re.fullmatch(r".+, \d+(\.\d+)?", v)), None)
    if astray is not None:
        raise InputError(f"study {path}: with an axis, variants are named '<line>, <number>'; {astray!r} is not")
    if study.axis and study.together:
        raise InputError(f"study {path}: variants along an axis are no draws of one thing; leave out axis or together")
    if study.reference is not None and study.reference not in {study.place(variant)[0] for variant in study.variants}:
        raise InputError(f"study {path}: reference {study.reference!r} is none of its variants {', '.join(study.variants)}")
    return study


def _check_cells(study: Study, path: Path) -> None:
    """Every variant has a folder of its own."""
    path_part(study.name, f"study {path}:")
    folders: dict[str, str] = {}
    for variant in study.variants:
        folder = cell_name(variant, 0)
        other = folders.setdefault(twin_key(folder), variant)
        if other != variant:
            raise InputError(f"study {path}: variants {variant!r} and {other!r} would share the folder {folder}; rename one")


def cell_name(variant: str, seed: int) -> str:
    """Folder of one cell."""
    return path_part(f"{re.sub(r'[^A-Za-z0-9]+', '-', variant).strip('-')}-seed{seed}", f"the folder of variant {shown(variant)}")
