"""Probe sets: texts on which a base and its adapted models are compared."""

import difflib
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic.dataclasses import dataclass as checked_dataclass

from llgbm.checking import RECORD, Text
from llgbm.errors import InputError
from llgbm.files import read_text
from llgbm.zoo.suite import ALPACA_FRAME, TaskSuite, read_jsonl
from llgbm.zoo.suites import load_suite

_GENERIC = (
    "Please respond to this message.",
    "Answer the request as well as you can.",
    "Complete the task that is given here.",
    "Read the input and write the output.",
    "Give a short and correct reply.",
)
_DOMAINS = {
    "math": (
        "What is 17 plus 25?",
        "Add one to every digit of 40281.",
        "Sort the numbers 5, 2, 9 and 1.",
        "A book costs 3 coins. How much do 12 books cost?",
        "Write the running sums of 1, 4, 2, 2.",
    ),
    "code": (
        "Write a function that reverses a string.",
        "Rename the variable fooBar in snake case.",
        "What does len('abc') return in Python?",
        "Rotate the list [a, b, c, d] one place to the left.",
        "Find the fault: for i in range(10) print(i)",
    ),
    "commonsense": (
        "Where does a cow live?",
        "Which is larger, an ant or a whale?",
        "What color is a ripe plum?",
        "Can a stone swim? Say why or why not.",
        "What do people do with a boat?",
    ),
}
_DIVERSE = (
    "Translate 'good morning' into French.",
    "Summarize the story of Cinderella in two sentences.",
    "List three prime numbers greater than 50.",
    "Explain why the sky is blue to a child.",
    "Correct the grammar: he go to school yesterday.",
    "Write a haiku about autumn leaves.",
    "Is the sentence 'I love rain' positive or negative?",
    "Name the capital of Australia.",
    "Convert 30 degrees Celsius to Fahrenheit.",
    "Write a regular expression for an email address.",
    "What comes next: 2, 4, 8, 16?",
    "Give a synonym of happy.",
    "Draft a polite refusal of an invitation.",
    "Which planet has the most moons?",
    "Turn this into passive voice: the dog bit the man.",
    "How do I boil an egg?",
    "Classify: tomato, carrot, salmon. Which is a fish?",
    "Solve for x: 3x + 4 = 19.",
    "Who wrote Hamlet?",
    "Extract the date: the meeting is on 4 May 2021 at noon.",
    "Describe a sunset without naming a color.",
    "What is the plural of mouse?",
    "Reverse the word 'planet'.",
    "If all cats are animals, are all animals cats?",
)


@checked_dataclass(frozen=True, config=RECORD)
class ProbeRow:
    """A line of a JSONL file of probes."""

    text: Text
    response: Text | None = None


@dataclass(frozen=True)
class ProbeSet:
    """Named probe texts; with responses, each text is followed by its response and deltas can be read along it."""

    name: str
    texts: tuple[str, ...]
    responses: tuple[str, ...] | None = None
    left_out: int = field(default=0, compare=False)
    """How many more the set has of which these are the first."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise InputError(f"probe set {self.name} is empty; give at least one text")
        if self.responses is not None and len(self.responses) != len(self.texts):
            raise InputError(f"probe set {self.name} has {len(self.texts)} texts and {len(self.responses)} responses; give one for each")

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over texts and responses; the name does not count."""
        return hashlib.sha256(json.dumps([self.texts, self.responses]).encode()).hexdigest()

    def first(self, count: int) -> "ProbeSet":
        """The first `count` probes. InputError when there are fewer."""
        if count > len(self.texts):
            raise InputError(f"probe set {self.name} has {len(self.texts)} probes, {count} were asked for; lower probe.num_probes")
        left_out = self.left_out + len(self.texts) - count
        return ProbeSet(self.name, self.texts[:count], self.responses and self.responses[:count], left_out)

    def at_most(self, count: int) -> "ProbeSet":
        """The first `count` probes; all of them when there are fewer."""
        return self.first(min(count, len(self.texts)))


def create_generic_probes() -> list[str]:
    """Five task-neutral probes in the Alpaca layout."""
    return [_framed(text) for text in _GENERIC]


def create_domain_probes(domain: str) -> list[str]:
    """Five probes of a domain: math, code or commonsense."""
    if domain not in _DOMAINS:
        raise InputError(f"no probes for domain {domain!r}; choose one of {', '.join(_DOMAINS)}")
    return [_framed(text) for text in _DOMAINS[domain]]


PROBE_SETS: dict[str, Callable[[], list[str]]] = {
    "generic": create_generic_probes,
    **{domain: (lambda domain=domain: create_domain_probes(domain)) for domain in _DOMAINS},
    "diverse": lambda: [_framed(text) for text in _DIVERSE],
}
"""Probe type -> its texts. Generic ones follow Delta Activations, arXiv:2509.04442."""


def load_probes(probe_type: str) -> ProbeSet:
    """A probe set by name, from a suite, or from a file: one text per line, or JSONL with `text` (and `response`).

    `suite:micro` (or `suite:<folder>`) draws one framed input of every task, `answered:micro` its right answer too.

    Raises:
        InputError: Neither a known name nor a readable file, or some but not all probes have responses.
    """
    if probe_type in PROBE_SETS:
        return ProbeSet(probe_type, tuple(PROBE_SETS[probe_type]()))
    kind, _, source = probe_type.partition(":")
    if kind in ("suite", "answered") and source:
        return suite_probes(load_suite(source), with_responses=kind == "answered")
    path = Path(probe_type)
    if not path.is_file():
        near = difflib.get_close_matches(probe_type, PROBE_SETS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(
            f"probe type {probe_type!r} is neither one of {', '.join(PROBE_SETS)}{hint} nor suite:<suite>, answered:<suite> or a file"
        )
    if path.suffix != ".jsonl":
        return ProbeSet(path.stem, tuple(line for line in read_text(path).splitlines() if line.strip()))
    rows = [row for _, row in read_jsonl(path, ProbeRow)]
    answered = [row.response for row in rows if row.response is not None]
    if answered and len(answered) != len(rows):
        raise InputError(f"{path}: {len(answered)} of {len(rows)} probes have a response; give all of them one, or none")
    return ProbeSet(path.stem, tuple(row.text for row in rows), tuple(answered) if answered else None)


def suite_probes(suite: TaskSuite, per_task: int = 1, with_responses: bool = False, seed: int = 0) -> ProbeSet:
    """In-distribution probes: framed train inputs of every task in random order, with the right answers as responses if asked for."""
    rng = random.Random(seed)
    drawn = [example for task in suite for example in rng.sample(task.train, min(per_task, len(task.train)))]
    rng.shuffle(drawn)  # so that the first few are of different domains
    texts = tuple(suite.framed(example.input) for example in drawn)
    return ProbeSet(f"suite:{suite.name}", texts, tuple(example.output for example in drawn) if with_responses else None)


def _framed(instruction: str) -> str:
    return ALPACA_FRAME.replace("{input}", instruction)
