"""A suite's tasks as lm-evaluation-harness asks them: a YAML file and two JSONL files for each, and a group of all."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llgbm.errors import InputError
from llgbm.files import absolute, write_text
from llgbm.metrics import EXACT_MATCH
from llgbm.names import path_part, refuse_twins
from llgbm.zoo.suite import CHAT_FRAME, Example, Task, TaskSuite, to_jsonl

logger = logging.getLogger(__name__)
SPECIAL = ",*?[]"
"""What `lm_eval --tasks` reads as more than one name."""


def save_harness_tasks(suite: TaskSuite, folder: str | Path) -> list[str]:
    """Write tasks `<suite>-<task>` and a group that has the suite's name; their names, the group's first.

    Models are asked the test examples, in the suite's frame, and read train examples where the harness is told to show some. A task's
    file names its data by absolute path, since the harness knows no other.

    Raises:
        InputError: A task's name cannot be a file's, `lm_eval --tasks` would read more into it, or it has no test examples.
    """
    folder = Path(folder)
    group = folder / path_part(suite.name, "suite")
    names = {task.name: _checked(f"{suite.name}-{task.name}", task) for task in suite}
    refuse_twins(names.values(), "task")
    otherwise = [task.name for task in suite if task.metric != EXACT_MATCH]
    if otherwise:
        logger.warning("%d tasks are not judged by exact match here, such as %s; the harness will do so", len(otherwise), otherwise[0])
    for task in suite:
        place = folder / path_part(names[task.name], "task")
        parts = {"test": task.test, **({"train": task.train} if task.train else {})}
        files = {part: place.with_name(f"{place.name}-{part}.jsonl") for part in parts}
        for part, file in files.items():
            write_text(file, to_jsonl({"text": suite.framed(example.input), "answer": example.output} for example in parts[part]))
        _write_yaml(place, _described(suite, place.name, files, task.test))
    aggregated = [{"metric": "exact_match", "aggregation": "mean", "weight_by_size": False}]
    _write_yaml(group, {"group": suite.name, "task": [*names.values()], "aggregate_metric_list": aggregated})
    return [suite.name, *names.values()]


def _described(suite: TaskSuite, name: str, files: dict[str, Path], examples: Sequence[Example]) -> dict[str, Any]:
    """One task in the harness's terms; columns of its data stand for texts, so that no template reads into them."""
    shown = {"fewshot_split": "train", "training_split": "train", "fewshot_delimiter": "\n\n"} if "train" in files else {}
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {part: absolute(file) for part, file in files.items()}},
        "test_split": "test",
        **shown,
        **({"description": suite.system} if suite.frame == CHAT_FRAME and suite.system else {}),
        "output_type": "generate_until",
        "doc_to_text": "text",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "generation_kwargs": {"until": [], "max_gen_toks": 8 + max(len(example.output.encode()) for example in examples)},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "suite": suite.content_hash},
    }


def _checked(name: str, task: Task) -> str:
    special = next((character for character in SPECIAL if character in name), None)
    if special is not None:
        raise InputError(f"task {name!r} holds {special!r}, in which 'lm_eval --tasks' would read more than a name; rename it")
    if not task.test:
        raise InputError(f"task {name}: has no test examples, which are what lm-evaluation-harness asks; give it some or leave it out")
    path_part(name, "task")
    return name


def _write_yaml(place: Path, values: dict[str, Any]) -> None:
    write_text(place.with_name(f"{place.name}.yaml"), yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
