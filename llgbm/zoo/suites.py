"""Suites by name: the built-in ones, and folders of JSONL."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Text, read_as, shown
from llgbm.errors import InputError
from llgbm.files import absolute, hash_json, read_json
from llgbm.metrics import EXACT_MATCH, METRICS, NUMERIC, last_number
from llgbm.names import path_part, twin_key
from llgbm.zoo.micro.voices import APART, FOLDS, KNOWN, fold_voices
from llgbm.zoo.micro.world import HELD_PERCENTS, micro_suite
from llgbm.zoo.suite import ALPACA_FRAME, CHAT_FRAME, IN_UNSEEN_WORDS, SEEN, Example, Task, TaskSuite, read_jsonl
from llgbm.zoo.words.world import combination_suite, short_word_suite, word_suite


def _built_in() -> dict[str, Callable[[], TaskSuite]]:
    wild = {f"micro-wild-{percent}": {"held_percent": percent} for percent in HELD_PERCENTS}
    words = {f"micro-words-{fold}": {"voices": fold_voices(fold)} for fold in range(FOLDS)}
    variants: dict[str, dict[str, Any]] = {"micro": {}, **wild, **words, "micro-apart": {"voices": (KNOWN, APART)}}
    return {name: partial(micro_suite, name=name, **choices) for name, choices in variants.items()} | {
        "words": word_suite,
        "words-80": short_word_suite,
        "words-combinations": combination_suite,
    }


SUITES = _built_in()
"""Built-in suites by name."""
MAX_OPTIONS = 100
"""Answers of a choice at most: each of them is read at every question."""
FURTHER = "test-"
"""How files with further sets of test examples begin."""


def _with_slot(frame: str) -> str:
    if frame != CHAT_FRAME and "{input}" not in frame:
        raise ValueError(f"{shown(frame)} has no place for {{input}}; write a frame that contains {{input}}, or chat")
    return frame


def _of_tasks(split: str) -> str:
    """A split of tasks; what asks for another's in other words, or on other examples, is none."""
    if split in IN_UNSEEN_WORDS or "+" in split:
        raise ValueError(f"{shown(split)} is a way of asking, not a split of tasks; {SEEN} trains, any other name tests")
    return split


def known_metric(name: str) -> str:
    """The name, if there is a metric of that name; ValueError else."""
    if name not in METRICS:
        raise ValueError(f"{shown(name)} is no metric; choose one of {', '.join(METRICS)}")
    return name


@dataclass(frozen=True, config=RECORD)
class SuiteHeader:
    """What `suite.json` holds."""

    name: Text | None = None
    frame: Annotated[Text, AfterValidator(_with_slot)] = ALPACA_FRAME
    system: Text | None = None


@dataclass(frozen=True, config=RECORD)
class TaskRow:
    """A line of `tasks.jsonl`: a task without its examples. Task and domain name folders of a zoo."""

    task: Annotated[str, AfterValidator(path_part)]
    domain: Annotated[str, AfterValidator(path_part)]
    description: Text
    split: Annotated[str, AfterValidator(path_part), AfterValidator(_of_tasks)] = SEEN
    paraphrases: tuple[Text, ...] = ()
    unseen_paraphrases: tuple[Text, ...] = ()
    prompts: tuple[Text, ...] = ()
    unseen_prompts: tuple[Text, ...] = ()
    parts: tuple[str, ...] = ()
    attributes: dict[str, Text] = Field(default_factory=dict)
    metric: Annotated[str, AfterValidator(known_metric)] = EXACT_MATCH


@dataclass(frozen=True, config=RECORD)
class ExampleRow:
    """A line of `train.jsonl` or `test.jsonl`."""

    task: str
    input: Text
    output: Annotated[Text, Field(min_length=1)]


def stored_source(source: str | Path) -> str:
    """A suite's name as others record it: a built-in one as it is, a folder by its absolute path, so that it is found from anywhere."""
    return str(source) if str(source) in SUITES else absolute(source)


def suite_record(suite: TaskSuite, source: str | Path) -> dict[str, Any]:
    """What a zoo's manifest says of its suite: where it is, its hash, and that of each task in its frame."""
    tasks = {task.name: hash_json([suite.frame, task.content()]) for task in suite}
    return {"source": stored_source(source), "hash": suite.content_hash, "tasks": tasks}


def load_suite(source: str | Path) -> TaskSuite:
    """Load a suite: a built-in one by its name, anything else a JSONL folder.

    Raises:
        InputError: A file is missing, a line is not as `TaskRow` or `ExampleRow` say, two names would be one folder, a
            mixture has an unknown part, or a task has no train or test examples. It names file, line and key.
    """
    if str(source) in SUITES:
        return SUITES[str(source)]()
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"task suite {source}: no such folder; give a folder with tasks.jsonl, train.jsonl and test.jsonl, or 'micro'")
    path = folder / "suite.json"
    header = read_as(SuiteHeader, read_json(path), str(path)) if path.exists() else SuiteHeader()
    if header.system is not None and header.frame != CHAT_FRAME:
        raise InputError(f"{path}: system: only the frame chat has a place for it; write it into the frame, or leave it out")
    rows = _read_tasks(folder / "tasks.jsonl")
    train, test = (_read_examples(folder / f"{part}.jsonl", rows) for part in ("train", "test"))
    further = {_test_name(path): _read_examples(path, rows) for path in sorted(folder.glob(f"{FURTHER}*.jsonl"))}
    tasks = {}
    for name, (where, row) in rows.items():
        tests = {test: examples[name] for test, examples in further.items() if name in examples}
        tasks[name] = _task(where, row, train.get(name, ()), test.get(name, ()), tests)
    return TaskSuite(name=folder.name if header.name is None else header.name, tasks=tasks, frame=header.frame, system=header.system)


def _read_tasks(path: Path) -> dict[str, tuple[str, TaskRow]]:
    """Task -> where it stands and its row."""
    rows: dict[str, tuple[str, TaskRow]] = {}
    names: dict[str, str] = {}
    domains: dict[str, str] = {}
    for where, row in read_jsonl(path, TaskRow):
        if row.task in rows:
            raise InputError(f"{where}: task {row.task!r} is defined twice, first at {rows[row.task][0]}; remove one")
        for what, name, known in (("task", row.task, names), ("domain", row.domain, domains)):
            other = known.setdefault(twin_key(name), name)
            if other != name:
                raise InputError(f"{where}: {what} {name!r} and {other!r} differ only by case or Unicode spelling; rename one")
        rows[row.task] = where, row
    if not rows:
        raise InputError(f"{path}: holds no tasks")
    for where, row in rows.values():
        unknown = next((part for part in row.parts if part not in rows), None)
        if unknown is not None:
            raise InputError(f"{where}: parts: {shown(unknown)} is no task of this suite; name tasks that are, or leave parts out")
    return rows


def _read_examples(path: Path, rows: Mapping[str, object]) -> dict[str, tuple[Example, ...]]:
    per_task: dict[str, list[Example]] = {}
    for where, row in read_jsonl(path, ExampleRow):
        if row.task not in rows:
            raise InputError(f"{where}: example for unknown task {shown(row.task)}; add it to tasks.jsonl")
        per_task.setdefault(row.task, []).append(Example(row.input, row.output))
    return {task: tuple(examples) for task, examples in per_task.items()}


def _test_name(path: Path) -> str:
    """What a further set of test examples is called."""
    name = path.stem.removeprefix(FURTHER)
    if not name or "+" in name:
        raise InputError(f"{path}: names no set of test examples; write {FURTHER}<name>.jsonl, without a plus sign")
    return name


def _task(
    where: str, row: TaskRow, train: tuple[Example, ...], test: tuple[Example, ...], further_tests: dict[str, tuple[Example, ...]]
) -> Task:
    for part, examples in (("train", train), ("test", test)):
        if not examples:
            raise InputError(f"{where}: task {row.task!r} has no {part} examples; add them to {part}.jsonl")
    values = asdict(row)
    task = Task(name=values.pop("task"), **values, train=train, test=test, further_tests=further_tests)
    check_metric(task, where)
    return task


def check_metric(task: Task, where: str) -> None:
    """InputError when a task's metric cannot judge its answers."""
    if METRICS[task.metric].among_options and not 2 <= (count := len(task.options)) <= MAX_OPTIONS:
        raise InputError(f"{where}: task {task.name!r} is a choice among {count} answers; it needs 2 to {MAX_OPTIONS}")
    if task.metric == NUMERIC:
        bare = next((answer for answer in task.options if last_number(answer) is None), None)
        if bare is not None:
            raise InputError(f"{where}: task {task.name!r} is numeric, but its answer {shown(bare)} has no number")
