"""Studies: variants of one experiment, each trained and evaluated with several seeds, in one table.

A study is a file of `configs/studies/`. Every cell (variant, seed) is an ordinary run folder, so an interrupted study goes
on where it stopped, inside a run too, and each cell can be looked at alone.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from llgbm.checking import SECTION, Integer, List, read_as, shown
from llgbm.config import ExperimentConfig, build, preset_folder, preset_values, study_names
from llgbm.dotted import flatten, merge
from llgbm.errors import InputError
from llgbm.evaluation.clusters import task_clusters
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.evaluation.statistics import add_holm, compare, replicates
from llgbm.evaluation.task_eval import evaluate, read_evaluation
from llgbm.files import hash_json, read_yaml, write_json
from llgbm.names import path_part, twin_key
from llgbm.progress import ProgressCallback
from llgbm.tracking.lock import hold
from llgbm.training.behavior import train_generator
from llgbm.training.soft_prompt import train_soft_prompt
from llgbm.workspace import settle
from llgbm.zoo.base import BaseOptions
from llgbm.zoo.folder import TeacherZoo

RESULT_FILE = "study.json"
GENERATED, SOFT_PROMPT = "generated", "soft_prompt"
CELL_LOCK = ".cell.lock"


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


def run_study(
    study: Study,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (),
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Train and evaluate every cell that is not done, seed by seed, then summarize all that are.

    Args:
        study: What to vary.
        output_dir: Holds a folder per study; its `study.json` is the result.
        overrides: Dotted config values for all cells.
        variants: Only these (all by default); earlier cells of others stay in the summary.
        seeds: Other seeds than the study's.
        progress: Called with steps done and to do over all cells.

    Raises:
        InputError: An unknown variant, a config that does not fit, or a zoo that is not built; no cell was begun then.
    """
    folder, overrides = study.folder(output_dir), overrides or {}
    all_seeds = list(seeds or study.seeds)
    configs = _configs(study, folder, overrides, variants, all_seeds)
    total, done = sum(config.training.total_steps for config in configs.values()), 0
    for (variant, seed), config in configs.items():
        _run_cell(study, config, _part(progress, done, total, f"{variant}/{seed}"))
        done += config.training.total_steps
    finished = [
        (variant, seed)
        for variant in study.variants
        for seed in all_seeds
        if _is_done(study, _on_its_zoo(study, variant, seed, overrides, folder))
    ]
    result = summarize(study, folder, finished)
    write_json(folder / RESULT_FILE, result)
    return result


def plan_cells(
    study: Study, output_dir: str | Path, overrides: Mapping[str, Any], variants: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[tuple[ExperimentConfig, bool]]:
    """What `run_study` would run in turn, with the same arguments and faults: each cell's config, and whether it is done."""
    configs = _configs(study, study.folder(output_dir), overrides, variants, seeds or study.seeds)
    return [(config, _is_done(study, config)) for config in configs.values()]


def _configs(
    study: Study, folder: Path, overrides: Mapping[str, Any], variants: Sequence[str], seeds: Sequence[int]
) -> dict[tuple[str, int], ExperimentConfig]:
    """The config of each cell, in the order in which they run."""
    unknown = next((name for name in variants if name not in study.variants), None)
    if unknown is not None:
        raise InputError(f"study {study.name} has no variant {unknown!r}; choose from {', '.join(study.variants)}")
    cells = [(variant, seed) for seed in seeds for variant in variants or study.variants]
    _check_zoos([study.experiment(variant, seed, overrides, folder) for variant, seed in cells])
    return {(variant, seed): _on_its_zoo(study, variant, seed, overrides, folder) for variant, seed in cells}


def cell_name(variant: str, seed: int) -> str:
    """Folder of one cell."""
    return path_part(f"{re.sub(r'[^A-Za-z0-9]+', '-', variant).strip('-')}-seed{seed}", f"the folder of variant {shown(variant)}")


def summarize(study: Study, folder: Path, cells: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Means over seeds with intervals, and each variant against the reference, from the cells' evaluations."""
    documents = {cell: read_evaluation(folder / cell_name(*cell) / "eval_main.json") for cell in cells}
    rows, comparisons = [], []
    by_variant = {name: {s: d for (v, s), d in documents.items() if v == name} for name in study.variants}
    present = {name: found for name, found in by_variant.items() if found}
    for name, found in present.items():
        for split in next(iter(found.values()))["splits"]:
            for method in study.methods:
                rows.append({"variant": name, "split": split, "method": method, **_over_seeds(found, split, method)})
    for split in next(iter(documents.values()))["splits"] if documents and study.reference else ():
        comparisons += _against_reference(study, present, split)
    groups = {name: list(found.values()) for name, found in present.items()}
    if study.together and len(present) > 1:
        mean_of = f"mean of {len(present)}"
        rows += _together(study, rows, mean_of)
        groups[mean_of] = list(documents.values())
    return {
        "study": asdict(study),
        "rows": rows,
        "comparisons": comparisons,
        "method_comparisons": [row for name, found in groups.items() for row in _against_methods(study, name, found)],
        "cells": [{"variant": v, "seed": s, "folder": cell_name(v, s), "config_hash": documents[v, s]["config_hash"]} for v, s in cells],
    }


def _on_its_zoo(study: Study, variant: str, seed: int, overrides: Mapping[str, Any], folder: Path) -> ExperimentConfig:
    """A cell's config with what its zoo decides as the zoo has it; InputError where study or overrides want something else."""
    config = study.experiment(variant, seed, overrides, folder)
    given = {**flatten(study.set), **flatten(study.variants[variant]), **overrides}
    return settle(config, TeacherZoo.load(config.checkpoint_folder), given)


def _check_zoos(configs: Sequence[ExperimentConfig]) -> None:
    for folder, suite in {config.checkpoint_folder: config.zoo.suite for config in configs}.items():
        if not (Path(folder) / "manifest.json").is_file():
            raise InputError(f"{folder}: no zoo there; build it with 'llgbm zoo build --suite {suite} --zoo {folder}'")


def _run_cell(study: Study, config: ExperimentConfig, progress: ProgressCallback | None) -> None:
    folder = config.run_folder
    with hold(folder, CELL_LOCK):  # others may work on other cells of the study
        if _is_done(study, config):
            return
        train_generator(config, begin="go_on", progress=progress)
        soft_prompt = _train_soft_prompt(config, progress) if SOFT_PROMPT in study.methods else None
        where = BaseOptions(device=config.model.device, memory_gb=config.model.memory_gb)
        chosen = EvaluationConfig(
            splits=tuple(study.splits),
            methods=tuple(study.methods),
            max_examples=study.max_examples,
            soft_prompt=soft_prompt,
            base=where,
        )
        document = evaluate(folder, config.checkpoint_folder, chosen, folder.parent / "cache").to_json()
        write_json(folder / "eval_main.json", {**document, "cell": _cell_hash(study, config)})


def _train_soft_prompt(config: ExperimentConfig, progress: ProgressCallback | None) -> str:
    """The same run with virtual tokens in the place of adapters, beside it; its folder."""
    beside = replace(config, experiment_name=f"{config.experiment_name}-soft-prompt")
    return str(train_soft_prompt(beside, begin="go_on", progress=progress).folder)


def _is_done(study: Study, config: ExperimentConfig) -> bool:
    path = config.run_folder / "eval_main.json"
    return path.is_file() and read_evaluation(path).get("cell") == _cell_hash(study, config)


def _cell_hash(study: Study, config: ExperimentConfig) -> str:
    """Of all that decides a cell's figures."""
    choices = [study.splits, study.methods, *([] if study.max_examples is None else [study.max_examples])]
    return hash_json([config.get_hash(), TeacherZoo.load(config.checkpoint_folder).content_hash, *choices])


def _over_seeds(found: Mapping[int, dict[str, Any]], split: str, method: str) -> dict[str, Any]:
    """Exact match over seeds with Student's interval, NLL and gain recovered."""
    summaries = [document["splits"][split][method] for document in found.values()]
    exact = replicates([summary["exact_match"] for summary in summaries])
    gains = [summary["gain_recovered"] for summary in summaries]
    return {
        "exact_match": exact.mean,
        "low": exact.low,
        "high": exact.high,
        "nll": sum(summary["nll"] for summary in summaries) / len(summaries),
        "gain_recovered": None if None in gains else sum(gains) / len(gains),
        "n_seeds": len(found),
        "n_tasks": summaries[0]["n_tasks"],
        "by_seed": {str(seed): document["splits"][split][method]["exact_match"] for seed, document in found.items()},
    }


def _together(study: Study, rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """For each split and method, the variants' means as replicates."""
    found = []
    for split, method in dict.fromkeys((row["split"], row["method"]) for row in rows):
        own = [row for row in rows if (row["split"], row["method"]) == (split, method)]
        exact, gains = replicates([row["exact_match"] for row in own]), [row["gain_recovered"] for row in own]
        found.append(
            {
                **{"variant": name, "split": split, "method": method, "exact_match": exact.mean, "low": exact.low, "high": exact.high},
                "nll": sum(row["nll"] for row in own) / len(own),
                "gain_recovered": None if None in gains else sum(gains) / len(gains),
                "n_seeds": len(own),
                "n_tasks": own[0]["n_tasks"],
                "by_variant": {row["variant"]: row["exact_match"] for row in own},
            }
        )
    return found


def _against_methods(study: Study, variant: str, documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Generated adapters minus each other method, per task over a variant's runs; clustered by attributes, p by Holm within a split."""
    found = []
    for split in documents[0]["splits"]:
        attributes, rows = _attributes(documents, split), []
        for method in (name for name in study.methods if name != GENERATED):
            pairs: dict[str, list[tuple[list[int], list[int]]]] = {}
            for document in documents:
                ours, theirs = _answers(document, split), _answers(document, split, method)
                for task in sorted(ours):
                    pairs.setdefault(task, []).append((ours[task], theirs[task]))
            one, other = ([np.mean([pair[side] for pair in runs], axis=0) for runs in pairs.values()] for side in (0, 1))
            compared = compare(one, other, clusters=task_clusters([attributes[task] for task in pairs]))
            rows.append({"split": split, "variant": variant, "other": method, **asdict(compared)})
        add_holm(rows)
        found += rows
    return found


def _against_reference(study: Study, present: Mapping[str, Mapping[int, dict[str, Any]]], split: str) -> list[dict[str, Any]]:
    """The reference minus each other variant on a split: per task over the seeds in which both answered it.

    Tasks are clustered by their attributes. The interval and the p-value (by Holm within the split) speak of other tasks, for these
    generators; `by_seed` shows how the difference varies from one generator to the next.
    """
    references = {number: name for name in present for line, number in [study.place(name)] if line == study.reference}
    rows = []
    for name, found in present.items():
        reference = references.get(study.place(name)[1], name)
        seeds = sorted(found.keys() & present[reference].keys())
        if name == reference or not seeds:
            continue
        pairs: dict[str, list[tuple[list[int], list[int]]]] = {}
        for seed in seeds:  # runs on few seen tasks draw other ones with each seed
            ours, theirs = (_answers(runs[seed], split) for runs in (present[reference], found))
            for task in sorted(ours.keys() & theirs.keys()):
                pairs.setdefault(task, []).append((ours[task], theirs[task]))
        one, other = ([np.mean([pair[side] for pair in runs], axis=0) for runs in pairs.values()] for side in (0, 1))
        means = [[runs[seed]["splits"][split][GENERATED]["exact_match"] for seed in seeds] for runs in (present[reference], found)]
        by_seed = {str(seed): ours - theirs for seed, ours, theirs in zip(seeds, *means, strict=True)}
        attributes = _attributes([*found.values(), *present[reference].values()], split)
        clusters = task_clusters([attributes[task] for task in pairs])
        rows.append({"split": split, "variant": reference, "other": name, "by_seed": by_seed})
        rows[-1] |= asdict(compare(one, other, clusters=clusters))
    add_holm(rows)
    return rows


def _answers(document: dict[str, Any], split: str, method: str = GENERATED) -> dict[str, list[int]]:
    """For each task of a split, which examples a method got right."""
    return {row["task"]: [int(x) for x in row["exact"][method]] for row in document["tasks"] if row["split"] == split}


def _attributes(documents: Sequence[Mapping[str, Any]], split: str) -> dict[str, dict[str, str]]:
    """The attributes of each task of a split."""
    return {row["task"]: row["attributes"] for document in documents for row in document["tasks"] if row["split"] == split}


def _part(progress: ProgressCallback | None, done: int, total: int, cell: str) -> ProgressCallback | None:
    """Progress of one cell as progress of all."""
    if progress is None:
        return None

    def report(step: int, steps: int, **figures: Any) -> None:
        progress(done + step, total, cell=cell, **{key: figures[key] for key in ("loss", "validation") if key in figures})

    return report
