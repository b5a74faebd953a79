"""Suites from other people's files."""

import random
from pathlib import Path

from llgbm.checking import read_as
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.zoo.suite import Example, Task, TaskSuite
from llgbm.zoo.suites import ExampleRow

TEST_SHARE, MOST_TEST = 0.2, 50
"""Share of a task's pairs that is kept for testing, and at most how many."""


def import_function_vectors(folder: str | Path) -> TaskSuite:
    """A suite from a folder of JSON files, one task each: `[{"input": ..., "output": ...}, ...]`, also in subfolders.

    The file's name is the task and, as words, its description; the folder it lies in is its domain. Which pairs are for
    testing is drawn by the task's name; an input that stands twice is taken once, so none is in both parts.

    Raises:
        InputError: No such folder, no JSON files in it, one name twice, too few pairs, or a row that is not as above
            (names file, row and key).

    Source:
        Format of Todd et al. 2023, arXiv:2310.15213 (Function Vectors).
    """
    folder = Path(folder)
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise InputError(f"{folder}: no JSON files to import; give a folder with files of [{{input, output}}], one per task")
    tasks: dict[str, Task] = {}
    for path in paths:
        if path.stem in tasks:
            raise InputError(f"{path}: task {path.stem!r} stands in two folders; rename one file")
        tasks[path.stem] = _task(path)
    return TaskSuite(folder.resolve().name, tasks)


def _task(path: Path) -> Task:
    pairs = _pairs(path)
    if len(pairs) < 2:
        raise InputError(f"{path}: {len(pairs)} different inputs; a task needs at least 2, one to train and one to test on")
    random.Random(path.stem).shuffle(pairs)
    n_test = max(1, min(MOST_TEST, round(TEST_SHARE * len(pairs))))
    words = path.stem.replace("-", " to ").replace("_", " ")
    return Task(
        name=path.stem,
        domain=path.parent.name,
        split="seen",
        description=words[:1].upper() + words[1:] + ".",
        train=tuple(pairs[n_test:]),
        test=tuple(pairs[:n_test]),
    )


def _pairs(path: Path) -> list[Example]:
    """The first pair of each input, in the file's order."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of {{input, output}}")
    found: dict[str, Example] = {}
    for number, row in enumerate(rows, 1):
        values = {**row, "task": path.stem} if isinstance(row, dict) else row
        pair = read_as(ExampleRow, values, f"{path}, row {number}")
        found.setdefault(pair.input, Example(pair.input, pair.output))
    return list(found.values())
