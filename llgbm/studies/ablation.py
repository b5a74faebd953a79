"""Studies: variants of one experiment, each trained and evaluated with several seeds, in one table.

Every cell (variant, seed) is an ordinary run folder, so an interrupted study goes
on where it stopped, inside a run too, and each cell can be looked at alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llgbm.config import ExperimentConfig
from llgbm.dotted import flatten
from llgbm.errors import InputError
from llgbm.evaluation.clusters import task_clusters
from llgbm.evaluation.statistics import add_holm, compare, replicates
from llgbm.evaluation.task_eval import read_evaluation
from llgbm.fanout.claims import Claims, Piece
from llgbm.fanout.crew import Engine, Job
from llgbm.fanout.local import Local
from llgbm.files import hash_json, write_json
from llgbm.progress import ProgressCallback, Tally
from llgbm.studies.cells import CellWorker, folders
from llgbm.studies.variants import GENERATED, RESULT_FILE, Study, cell_name
from llgbm.workspace import settle
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.manifest import is_zoo


def run_study(
    study: Study,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (),
    progress: ProgressCallback | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Train and evaluate every cell that is not done, seed by seed, then summarize all that are.

    Several processes may do so together: each leaves alone what another works at.

    Args:
        study: What to vary.
        output_dir: Holds a folder per study; its `study.json` is the result.
        overrides: Dotted config values for all cells.
        variants: Only these (all by default).
        seeds: Other seeds than the study's. Earlier cells, of variants and seeds of the study that were not asked for, stay in the summary.
        progress: Called with steps done and to do over all cells.
        engine: Where cells are trained and evaluated; in this process by default. Workers write runs and checkpoints in the study's folder.

    Raises:
        InputError: An unknown variant, a config that does not fit, or a zoo that is not built; no cell was begun then.
        BusyError: Another process still works at a cell, and all others are done.
    """
    folder, overrides = study.folder(output_dir), overrides or {}
    configs = _configs(study, folder, overrides, variants, seeds or study.seeds)
    _perform(study, folder, {f"{variant}/{seed}": config for (variant, seed), config in configs.items()}, progress, engine or Local())
    finished = [
        (variant, seed)
        for variant in study.variants
        for seed in sorted({*study.seeds, *seeds})
        if is_zoo(study.experiment(variant, seed, overrides, folder).checkpoint_folder)  # those that were not asked for may lack theirs
        and _is_done(study, _on_its_zoo(study, variant, seed, overrides, folder))
    ]
    result = summarize(study, folder, finished)
    write_json(folder / RESULT_FILE, result)
    return result


def _perform(study: Study, folder: Path, cells: Mapping[str, ExperimentConfig], progress: ProgressCallback | None, engine: Engine) -> None:
    """Finish the cells."""
    pending = {cell: config for cell, config in cells.items() if not _is_done(study, config)}
    pieces = [_piece(study, cell, config) for cell, config in pending.items()]
    zoos = {config.checkpoint_folder: TeacherZoo.load(config.checkpoint_folder).content_hash for config in pending.values()}
    with Claims() as claims, engine.crew(Job(CellWorker, (study, zoos), folder)) as crew:
        tally = Tally(sum(config.training.total_steps for config in cells.values()), progress, crew.figures)
        tally.add(tally.total - sum(piece.size for piece in pieces))
        for piece in claims.perform(crew, "perform", pieces, tally.tick):
            tally.add(piece.size)


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
    for config in configs:
        folder = config.checkpoint_folder
        if not is_zoo(folder):
            raise InputError(f"{folder}: no zoo there; build it with 'llgbm zoo build --suite {config.zoo.suite} --zoo {folder}'")


def _piece(study: Study, cell: str, config: ExperimentConfig) -> Piece:
    """A cell, and what it is finished by."""

    def commit(document: dict[str, Any]) -> None:
        write_json(config.run_folder / "eval_main.json", {**document, "cell": _cell_hash(study, config)})

    done = partial(_is_done, study, config)
    return Piece(f"cell {cell}", config.training.total_steps, folders(study, config), (cell, config), done, commit)


def _is_done(study: Study, config: ExperimentConfig) -> bool:
    path = config.run_folder / "eval_main.json"
    return path.is_file() and read_evaluation(path).get("cell") == _cell_hash(study, config)


def _cell_hash(study: Study, config: ExperimentConfig) -> str:
    """Of all that decides a cell's figures."""
    choices = [study.splits, study.methods, *([] if study.max_examples is None else [study.max_examples])]
    return hash_json([config.get_hash(), TeacherZoo.load(config.checkpoint_folder).content_hash, *choices])


def _over_seeds(found: Mapping[int, dict[str, Any]], split: str, method: str) -> dict[str, Any]:
    """The score over seeds with Student's interval, NLL and gain recovered."""
    summaries = [document["splits"][split][method] for document in found.values()]
    scores = replicates([summary["score"] for summary in summaries])
    gains = [summary["gain_recovered"] for summary in summaries]
    return {
        "score": scores.mean,
        "low": scores.low,
        "high": scores.high,
        "nll": sum(summary["nll"] for summary in summaries) / len(summaries),
        "gain_recovered": None if None in gains else sum(gains) / len(gains),
        "n_seeds": len(found),
        "n_tasks": summaries[0]["n_tasks"],
        "by_seed": {str(seed): document["splits"][split][method]["score"] for seed, document in found.items()},
    }


def _together(study: Study, rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """For each split and method, the variants' means as replicates."""
    found = []
    for split, method in dict.fromkeys((row["split"], row["method"]) for row in rows):
        own = [row for row in rows if (row["split"], row["method"]) == (split, method)]
        scores, gains = replicates([row["score"] for row in own]), [row["gain_recovered"] for row in own]
        found.append(
            {
                **{"variant": name, "split": split, "method": method, "score": scores.mean, "low": scores.low, "high": scores.high},
                "nll": sum(row["nll"] for row in own) / len(own),
                "gain_recovered": None if None in gains else sum(gains) / len(gains),
                "n_seeds": len(own),
                "n_tasks": own[0]["n_tasks"],
                "by_variant": {row["variant"]: row["score"] for row in own},
            }
        )
    return found


def _against_methods(study: Study, variant: str, documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Generated adapters minus each other method, per task over a variant's runs; clustered by attributes, p by Holm within a split."""
    found = []
    for split in documents[0]["splits"]:
        attributes, rows = _attributes(documents, split), []
        for method in (name for name in study.methods if name != GENERATED):
            pairs: dict[str, list[tuple[list[float], list[float]]]] = {}
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
        pairs: dict[str, list[tuple[list[float], list[float]]]] = {}
        for seed in seeds:  # runs on few seen tasks draw other ones with each seed
            ours, theirs = (_answers(runs[seed], split) for runs in (present[reference], found))
            for task in sorted(ours.keys() & theirs.keys()):
                pairs.setdefault(task, []).append((ours[task], theirs[task]))
        one, other = ([np.mean([pair[side] for pair in runs], axis=0) for runs in pairs.values()] for side in (0, 1))
        means = [[runs[seed]["splits"][split][GENERATED]["score"] for seed in seeds] for runs in (present[reference], found)]
        by_seed = {str(seed): ours - theirs for seed, ours, theirs in zip(seeds, *means, strict=True)}
        attributes = _attributes([*found.values(), *present[reference].values()], split)
        clusters = task_clusters([attributes[task] for task in pairs])
        rows.append({"split": split, "variant": reference, "other": name, "by_seed": by_seed})
        rows[-1] |= asdict(compare(one, other, clusters=clusters))
    add_holm(rows)
    return rows


def _answers(document: dict[str, Any], split: str, method: str = GENERATED) -> dict[str, list[float]]:
    """For each task of a split, what each example is worth by a method's answers."""
    rows = [row for row in document["tasks"] if row["split"] == split]
    return {row["task"]: row["marks"][method] if "marks" in row else [float(x) for x in row["exact"][method]] for row in rows}


def _attributes(documents: Sequence[Mapping[str, Any]], split: str) -> dict[str, dict[str, str]]:
    """The attributes of each task of a split."""
    return {row["task"]: row["attributes"] for document in documents for row in document["tasks"] if row["split"] == split}
