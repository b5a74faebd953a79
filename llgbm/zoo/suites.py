"""Suites by name: the built-in ones, and folders of JSONL."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suite import ALPACA_FRAME, TASK_SPLITS, Example, Task, TaskSuite, read_jsonl

SUITES: dict[str, Callable[[], TaskSuite]] = {"micro": micro_suite}
"""Built-in suites by name."""


def load_suite(source: str | Path) -> TaskSuite:
    """Load a suite: `micro` is the built-in one, anything else a JSONL folder.

    Raises:
        InputError: A file is missing, a line is not JSON or lacks a key, or a task has no train or test examples.
    """
    if str(source) in SUITES:
        return SUITES[str(source)]()
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"task suite {source}: no such folder; give a folder with tasks.jsonl, train.jsonl and test.jsonl, or 'micro'")
    header = _read_header(folder / "suite.json")
    examples = {part: _read_examples(folder / f"{part}.jsonl") for part in ("train", "test")}
    tasks: dict[str, Task] = {}
    for where, row in read_jsonl(folder / "tasks.jsonl", required=("task", "domain", "description")):
        task = _task_from_row(where, row, *(examples[part].get(row["task"], ()) for part in ("train", "test")))
        if task.name in tasks:
            raise InputError(f"{where}: task {task.name!r} is defined twice")
        tasks[task.name] = task
    for part, per_task in examples.items():
        unknown = sorted(set(per_task) - set(tasks))
        if unknown:
            raise InputError(f"{folder / f'{part}.jsonl'}: examples for unknown task {unknown[0]!r}; add it to tasks.jsonl")
    if not tasks:
        raise InputError(f"{folder / 'tasks.jsonl'}: holds no tasks")
    return TaskSuite(name=header.get("name", folder.name), tasks=tasks, frame=header.get("frame", ALPACA_FRAME))


def _read_header(path: Path) -> dict:
    if not path.exists():
        return {}
    header = read_json(path)
    if not isinstance(header, dict) or "{input}" not in header.get("frame", ALPACA_FRAME):
        raise InputError(f"{path}: expected an object whose frame contains {{input}}")
    return header


def _read_examples(path: Path) -> dict[str, tuple[Example, ...]]:
    per_task: dict[str, list[Example]] = {}
    for where, row in read_jsonl(path, required=("task", "input", "output")):
        if not isinstance(row["input"], str) or not isinstance(row["output"], str) or not row["output"]:
            raise InputError(f"{where}: input and output must be strings, and output not empty")
        per_task.setdefault(row["task"], []).append(Example(row["input"], row["output"]))
    return {task: tuple(examples) for task, examples in per_task.items()}


def _task_from_row(where: str, row: dict, train: tuple[Example, ...], test: tuple[Example, ...]) -> Task:
    known = {f.name for f in fields(Task)} - {"name", "train", "test"}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in known}
    task = Task(name=row["task"], **{"split": "seen", **values}, train=train, test=test)
    if task.split not in TASK_SPLITS:
        raise InputError(f"{where}: split {task.split!r} of task {task.name!r} is not one of {', '.join(TASK_SPLITS)}")
    for part in ("train", "test"):
        if not getattr(task, part):
            raise InputError(f"{where}: task {task.name!r} has no {part} examples; add them to {part}.jsonl")
    return task
