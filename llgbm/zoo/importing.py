"""Suites from other people's files, in the formats they published them in."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass as checked_dataclass

from llgbm.checking import RECORD, read_as
from llgbm.errors import InputError
from llgbm.files import read_json, read_yaml
from llgbm.metrics import EXACT_MATCH
from llgbm.zoo.suite import SEEN, Example, Task, TaskSuite
from llgbm.zoo.suites import ExampleRow, check_metric, known_metric

TEST_SHARE, MOST_TEST = 0.2, 50
"""Share of a task's pairs that is kept for testing where the files draw no line, and at most how many."""
UNSEEN_TASK = "unseen_task"
"""The split of tasks that are held out."""
FAMILY = "family"
"""The attribute that tasks of one family share."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A task as files have it."""

    path: Path
    name: str
    domain: str
    pairs: list[Example]
    """No input twice."""
    test: list[Example] | None = None
    """What the files keep for testing; None: drawn from the pairs."""
    descriptions: tuple[str, ...] = ()
    """What the files say is wanted; the name in words where they do not."""


def import_suite(format: str, folder: str | Path) -> TaskSuite:
    """A suite of a folder's tasks, all of them seen.

    Which pairs are for testing is drawn by the task's name where the files do not say; an input that stands twice is taken once, so
    none is in both parts.

    Raises:
        InputError: No such format or folder, no files of it, one name twice, too few pairs, or a row that is not as the format says
            (names file, row and key).
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r} of tasks; choose one of {', '.join(FORMATS)}")
    tasks: dict[str, Task] = {}
    root = Path(folder).resolve()  # so that `.` has a name, which is a domain
    for found in FORMATS[format](root):
        if found.name in tasks:
            raise InputError(f"{found.path}: task {found.name!r} stands in two folders; rename one file")
        tasks[found.name] = _task(found)
    if not tasks:
        raise InputError(f"{folder}: no JSON files to import; give a folder with files in the format {format}, one per task")
    return TaskSuite(root.name, tasks)


@checked_dataclass(frozen=True, config=RECORD)
class Description:
    """What a table says of one task."""

    texts: tuple[str, ...]
    """Sentences that say what is wanted; the first is the description, the others are paraphrases."""
    family: str = ""
    """Tasks so much alike that knowing one is knowing another; unnamed, it is of none but its own."""
    metric: Annotated[str, AfterValidator(known_metric)] = EXACT_MATCH
    """By which answers are judged."""


def describe(suite: TaskSuite, file: str | Path) -> TaskSuite:
    """Describe tasks by a table, a YAML file with `task: {texts: [...], family: ..., metric: ...}`; a task that it lacks stays as it is.

    Raises:
        InputError: The file is no such table, describes a task that the suite lacks, a text is empty, or a metric cannot judge the answers.
    """
    described = {task.name: task for task in suite}
    for name, row in read_yaml(file).items():
        if name not in described:
            raise InputError(f"{file}: {name!r} is no task of suite {suite.name}; it has {len(suite)} tasks, e.g. {next(iter(suite)).name}")
        said = read_as(Description, row, f"{file}: {name}")
        texts = _texts(list(said.texts), Path(file))
        if not texts:
            raise InputError(f"{file}: {name}: no text; give one or more")
        attributes = {FAMILY: said.family or name}
        task = replace(described[name], description=texts[0], paraphrases=texts[1:], attributes=attributes, metric=said.metric)
        check_metric(task, str(file))
        described[name] = task
    return replace(suite, tasks=described)


def hold_out(suite: TaskSuite, count: int, draw: int = 0) -> TaskSuite:
    """Put `count` seen tasks into split `unseen_task`, drawn by the number of the draw; those of one family go together.

    Raises:
        InputError: Fewer tasks than `count` are seen, none would be left, or families do not add up to it.
    """
    families: dict[str, list[str]] = {}
    for task in suite.select(split=SEEN):
        families.setdefault(task.attributes.get(FAMILY, task.name), []).append(task.name)
    seen = sum(map(len, families.values()))
    if not 1 <= count < seen:
        raise InputError(f"suite {suite.name} has {seen} seen tasks, {count} are to be held out; give 1 to {seen - 1}")
    order = sorted(families)
    random.Random(f"hold out/{draw}").shuffle(order)
    held: set[str] = set()
    for family in order:
        if len(held) + len(families[family]) <= count:
            held.update(families[family])
    if len(held) < count:
        raise InputError(f"suite {suite.name}: {count} tasks cannot be held out by whole families, {len(held)} can; give another number")
    return replace(suite, tasks={t.name: replace(t, split=UNSEEN_TASK) if t.name in held else t for t in suite})


def _task(found: Found) -> Task:
    train, test = list(found.pairs), found.test
    if test is None:
        random.Random(found.name).shuffle(train)
        n_test = max(1, min(MOST_TEST, round(TEST_SHARE * len(train))))
        test, train = train[:n_test], train[n_test:]
    else:
        test = test[:MOST_TEST]
        train = [pair for pair in train if pair.input not in {kept.input for kept in test}]
    if not train or not test:
        raise InputError(f"{found.path}: {len(found.pairs)} different inputs; a task needs at least 2, one to train and one to test on")
    words = found.name.replace("-", " to ").replace("_", " ")
    description, *paraphrases = found.descriptions or (words[:1].upper() + words[1:] + ".",)
    return Task(found.name, found.domain, SEEN, description, tuple(paraphrases), train=tuple(train), test=tuple(test))


def _function_vectors(folder: Path) -> Iterator[Found]:
    """`[{"input": ..., "output": ...}, ...]`, also in subfolders. The file's name is the task, the folder it lies in its domain.

    Source: Todd et al. 2023, arXiv:2310.15213 (Function Vectors).
    """
    for path in sorted(folder.rglob("*.json")):
        rows = read_json(path)
        if not isinstance(rows, list):
            raise InputError(f"{path}: expected a list of {{input, output}}")
        yield Found(path, path.stem, path.parent.name, _pairs(path, rows))


def _instruction_induction(folder: Path) -> Iterator[Found]:
    """`raw/induce/<task>.json` to train on, `raw/execute/<task>.json` to test on: `{"examples": {"1": {"input", "output"}}}`.

    `annotations/<task>.json`, where there is one, holds `{"annotations": [...]}`: what people said is wanted. Files whose examples
    have other parts than input and output (the tasks with several causes or items) are left out.

    Source: Honovich et al. 2022, arXiv:2205.10782 (Instruction Induction), folder `data` of its repository.
    """
    for path in sorted((folder / "raw" / "induce").glob("*.json")):
        execute = folder / "raw" / "execute" / path.name
        rows, kept = (list(_section(read_json(file), "examples", dict, file).values()) for file in (path, execute))
        if not all(isinstance(row, dict) and {"input", "output"} <= row.keys() for row in (*rows, *kept)):
            logger.warning("%s: left out, its examples are not of input and output", path)
            continue
        said = folder / "annotations" / path.name
        descriptions = _texts(_section(read_json(said), "annotations", list, said), said) if said.is_file() else ()
        yield Found(path, path.stem, "instruction_induction", _pairs(path, rows), _pairs(execute, kept), descriptions)


def _natural_instructions(folder: Path) -> Iterator[Found]:
    """`{"Definition": [...], "Categories": [...], "Instances": [{"input", "output": [...]}]}`; of several answers the first counts.

    Source: Wang et al. 2022, arXiv:2204.07705 (Super-NaturalInstructions), folder `tasks` of its repository.
    """
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        rows = _section(content, "Instances", list, path)
        definition = _texts(_section(content, "Definition", list, path), path)
        category = _texts(_section(content, "Categories", list, path), path)[0]
        domain = category.split("->")[0].strip().lower().replace(" ", "_").replace("/", "_")
        yield Found(path, path.stem, domain, _pairs(path, rows), descriptions=definition)


FORMATS: dict[str, Callable[[Path], Iterator[Found]]] = {
    "function_vectors": _function_vectors,
    "instruction_induction": _instruction_induction,
    "natural_instructions": _natural_instructions,
}
"""Formats by name."""


def _section(content: Any, key: str, kind: type, path: Path) -> Any:
    section = content.get(key) if isinstance(content, dict) else None
    if not isinstance(section, kind) or not section:
        raise InputError(f"{path}: expected a mapping with {key}, a {kind.__name__} that is not empty")
    return section


def _texts(texts: list[Any], path: Path) -> tuple[str, ...]:
    wrong = next((text for text in texts if not isinstance(text, str) or not text.strip()), None)
    if wrong is not None:
        raise InputError(f"{path}: expected texts, found {wrong!r}")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _pairs(path: Path, rows: Iterable[Any]) -> list[Example]:
    """The first pair of each input, in the file's order; of a list of answers the first."""
    found: dict[str, Example] = {}
    for number, row in enumerate(rows, 1):
        values = {**row, "task": path.stem} if isinstance(row, dict) else row
        if isinstance(values, dict):
            values = {key: values[key] for key in ("task", "input", "output") if key in values}
            answers = values.get("output")
            if isinstance(answers, list) and answers:
                values["output"] = answers[0]
        pair = read_as(ExampleRow, values, f"{path}, row {number}")
        found.setdefault(pair.input, Example(pair.input, pair.output))
    return list(found.values())
