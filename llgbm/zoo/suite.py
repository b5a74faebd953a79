"""Task suites: tasks with descriptions, unlabeled prompts, train and test examples; JSONL folders in and out.

A suite folder holds three files or more, one JSON object per line (`suite.json` is a single object and may be left out):

    suite.json    {"name": ..., "frame": "### Instruction:\\n{input}\\n\\n### Response:\\n"}, or "frame": "chat" and perhaps "system": ...
    tasks.jsonl   {"task", "domain", "split", "description", "paraphrases", "prompts", ...}
    train.jsonl   {"task", "input", "output"}
    test.jsonl    {"task", "input", "output"}
    test-<name>.jsonl    further sets of test examples, each reported apart, as split `<split>+<name>`
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from llgbm.checking import read_as
from llgbm.errors import InputError
from llgbm.files import parse_json, read_text, write_text
from llgbm.metrics import EXACT_MATCH

T = TypeVar("T")
ALPACA_FRAME = "### Instruction:\n{input}\n\n### Response:\n"
CHAT_FRAME = "chat"
"""The frame that is the tokenizer's chat template."""
SEEN = "seen"
"""The split that trains."""
UNSAID = "?"
"""Stands for an answer that is not given yet, or is empty."""
IN_UNSEEN_WORDS = {"unseen_wording": SEEN, "unseen_both": "unseen_combination"}
"""Splits that ask for another split's tasks in wordings no training used -> that split."""
SPLITS = (SEEN, "unseen_combination", *IN_UNSEEN_WORDS, "unseen_value", "mixture")
"""Splits of built-in suites, in the order results are reported. A task belongs to one of them, but to none that asks for another's."""


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
    metric: str = EXACT_MATCH
    """By which its answers are judged, see `metrics.METRICS`."""
    train: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    further_tests: dict[str, tuple[Example, ...]] = field(default_factory=dict)
    """Name -> other examples to test on, which results are reported on apart."""

    def content(self) -> dict[str, Any]:
        """Everything it says, for hashes; what later versions have added stands there only where it is used."""
        unused = {"further_tests": not self.further_tests, "metric": self.metric == EXACT_MATCH}
        return {k: v for k, v in asdict(self).items() if not unused.get(k)}

    @property
    def options(self) -> tuple[str, ...]:
        """Its different answers, in the order in which they come: what a choice is among."""
        examples = (*self.train, *self.test, *(example for further in self.further_tests.values() for example in further))
        return tuple(dict.fromkeys(example.output for example in examples))

    def tested_on(self, name: str) -> "Task":
        """The task with one of its further sets of test examples for its own, which are further ones then; unnamed, the task itself."""
        return replace(self, test=self.further_tests[name], further_tests={**self.further_tests, "": self.test}) if name else self


@dataclass(frozen=True)
class TaskSuite:
    """Named tasks and the frame in which the base reads an example's input."""

    name: str
    tasks: dict[str, Task]
    frame: str = ALPACA_FRAME
    """A text with `{input}`, or `chat`: the chat template of the base's tokenizer."""
    system: str | None = None
    """System prompt of a chat."""

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
        return TaskSuite(self.name, kept, self.frame, self.system)

    def spaced(self, count: int) -> "TaskSuite":
        """A sub-suite of `count` tasks, evenly spaced in this suite's order. InputError when there are not that many, or none asked for."""
        if not 1 <= count <= len(self):
            raise InputError(f"suite {self.name} has {len(self)} tasks to choose from, {count} were asked for; give 1 to {len(self)}")
        names = list(self.tasks)
        return self.select([names[i * len(names) // count] for i in range(count)])

    def with_whole_mixtures(self) -> "TaskSuite":
        """The suite with parts of a mixture named only where they are all in it: a selection may have left some out."""
        tasks = {t.name: t if set(t.parts) <= self.tasks.keys() else replace(t, parts=()) for t in self}
        return replace(self, tasks=tasks)

    @property
    def task_splits(self) -> list[str]:
        """Splits that its tasks belong to, those of `SPLITS` first."""
        own = {task.split for task in self}
        return [split for split in SPLITS if split in own] + sorted(own - {*SPLITS})

    @property
    def splits(self) -> list[str]:
        """What can be asked for: the splits of its tasks, and those that ask for them in unseen words."""
        own = self.task_splits
        asked = own + [name for name, asks in IN_UNSEEN_WORDS.items() if asks in own]
        return sorted(asked, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS))

    @property
    def further_tests(self) -> list[str]:
        """Names of its tasks' further sets of test examples."""
        return list(dict.fromkeys(name for task in self for name in task.further_tests))

    def framed(self, input: str) -> str:
        """A plain frame around one input; of a chat, whose template is the tokenizer's, the input as it stands."""
        return input if self.frame == CHAT_FRAME else self.frame.replace("{input}", input)

    @property
    def header(self) -> dict[str, str]:
        """What `suite.json` says besides the name."""
        return {"frame": self.frame, **({} if self.system is None else {"system": self.system})}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything the suite says, independent of how it is stored."""
        content = {**self.header, "tasks": [task.content() for task in self]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the suite as a JSONL folder that `load_suite` reads back equal."""
        folder = Path(folder)
        write_text(folder / "suite.json", json.dumps({"name": self.name, **self.header}, indent=2) + "\n")
        examples = ("train", "test", "further_tests")
        rows = [{"task" if k == "name" else k: v for k, v in vars(t).items() if k not in examples} for t in self]
        write_text(folder / "tasks.jsonl", to_jsonl(rows))
        parts = {part: {t.name: getattr(t, part) for t in self} for part in ("train", "test")}
        parts |= {f"test-{name}": {t.name: t.further_tests.get(name, ()) for t in self} for name in self.further_tests}
        for part, of_tasks in parts.items():
            write_text(folder / f"{part}.jsonl", to_jsonl({"task": task, **vars(e)} for task, es in of_tasks.items() for e in es))


def read_jsonl(path: Path, kind: type[T]) -> Iterator[tuple[str, T]]:
    """Yield `("file:line", record)` for each non-empty line; InputError at the first that is not of the kind."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        yield where, read_as(kind, parse_json(line, where), where)


def to_jsonl(rows: Iterable[dict]) -> str:
    """Objects, one a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
