"""Task suites: tasks with descriptions, unlabeled prompts, train and test examples; JSONL folders in and out.

A suite folder holds three files, one JSON object per line (`suite.json` is a single object and may be left out):

    suite.json    {"name": ..., "frame": "### Instruction:\\n{input}\\n\\n### Response:\\n"}
    tasks.jsonl   {"task", "domain", "split", "description", "paraphrases", "prompts", ...}
    train.jsonl   {"task", "input", "output"}
    test.jsonl    {"task", "input", "output"}
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

from llgbm.artifacts import read_json, read_text, write_text
from llgbm.errors import InputError

ALPACA_FRAME = "### Instruction:\n{input}\n\n### Response:\n"
SPLITS = ("seen", "unseen_combination", "unseen_wording", "mixture")
"""Splits results are reported on. `unseen_wording` is the seen tasks, asked for in wordings no training used."""
TASK_SPLITS = ("seen", "unseen_combination", "mixture")
"""Splits a task itself can belong to."""


@dataclass(frozen=True)
class Example:
    """One labeled example: what goes into the frame, and the answer expected after it."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """One task of a suite."""

    name: str
    domain: str
    split: str
    description: str
    """One sentence that says what is wanted."""
    paraphrases: tuple[str, ...] = ()
    """The description in other words; training may use them."""
    unseen_paraphrases: tuple[str, ...] = ()
    """Wordings that training never sees."""
    prompts: tuple[str, ...] = ()
    """Unlabeled prompts: requests as a user would write them, without answers."""
    unseen_prompts: tuple[str, ...] = ()
    """Requests in wordings that training never sees."""
    parts: tuple[str, ...] = ()
    """For a mixture: the names of the tasks it unites."""
    attributes: dict[str, str] = field(default_factory=dict)
    train: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()


@dataclass(frozen=True)
class TaskSuite:
    """Named tasks and the frame in which the base reads an example's input."""

    name: str
    tasks: dict[str, Task]
    frame: str = ALPACA_FRAME

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks.values())

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, name: str) -> Task:
        if name not in self.tasks:
            raise InputError(f"suite {self.name} has no task {name!r}; it has {len(self)} tasks, e.g. {next(iter(self.tasks))}")
        return self.tasks[name]

    def select(self, names: Iterable[str] | None = None, split: str | None = None) -> "TaskSuite":
        """The sub-suite of the named tasks, or of one split, in this suite's order."""
        wanted = set(self.tasks) if names is None else {self[name].name for name in names}
        kept = {t.name: t for t in self if t.name in wanted and split in (None, t.split)}
        return TaskSuite(self.name, kept, self.frame)

    def spaced(self, count: int) -> "TaskSuite":
        """A sub-suite of `count` tasks, evenly spaced in this suite's order. InputError when there are not that many, or none asked for."""
        if not 1 <= count <= len(self):
            raise InputError(f"suite {self.name} has {len(self)} tasks to choose from, {count} were asked for; give 1 to {len(self)}")
        names = list(self.tasks)
        return self.select([names[i * len(names) // count] for i in range(count)])

    def framed(self, input: str) -> str:
        """The text the base reads for one input; the answer follows it directly."""
        return self.frame.replace("{input}", input)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything the suite says, independent of how it is stored."""
        content = {"frame": self.frame, "tasks": [asdict(task) for task in self]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the suite as a JSONL folder that `load_suite` reads back equal."""
        folder = Path(folder)
        write_text(folder / "suite.json", json.dumps({"name": self.name, "frame": self.frame}, indent=2) + "\n")
        rows = [{"task" if k == "name" else k: v for k, v in asdict(t).items() if k not in ("train", "test")} for t in self]
        write_text(folder / "tasks.jsonl", _to_jsonl(rows))
        for part in ("train", "test"):
            examples = ({"task": t.name, **asdict(e)} for t in self for e in getattr(t, part))
            write_text(folder / f"{part}.jsonl", _to_jsonl(examples))


def load_suite(source: str | Path) -> TaskSuite:
    """Load a suite: `micro` is the built-in one, anything else a JSONL folder.

    Raises:
        InputError: A file is missing, a line is not JSON or lacks a key, or a task has no train or test examples.
    """
    if str(source) == "micro":
        from llgbm.zoo.micro.world import micro_suite

        return micro_suite()
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


def read_jsonl(path: Path, required: tuple[str, ...] = ()) -> Iterator[tuple[str, dict]]:
    """Yield `("file:line", object)` for each non-empty line; raise InputError at the first that is not as required."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from error
        missing = [key for key in required if key not in row] if isinstance(row, dict) else list(required)
        if missing or not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with {', '.join(required)}; missing {', '.join(missing)}")
        yield where, row


def _to_jsonl(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


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
