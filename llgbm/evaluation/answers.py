"""Answers to look at: a few tasks, a few inputs each, what the base, the teacher and the generated adapter say, and the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llgbm.errors import InputError
from llgbm.evaluation.methods import METHODS
from llgbm.evaluation.setting import Question, Setting
from llgbm.files import read_json
from llgbm.functional_lora import complete
from llgbm.zoo.suite import SEEN

ANSWERS_FILE = "example_answers.json"
METHODS_SHOWN = ("base", "generated", "teacher")
"""Without the teacher where not all tasks that are asked for have one."""


def answer_examples(setting: Setting, n_tasks: int = 12, n_inputs: int = 3) -> dict[str, Any]:
    """Answer test inputs by greedy decoding.

    Args:
        setting: Base, zoo and generator.
        n_tasks: Tasks, shared out among the configured splits, or all of the suite's, that have any, but `seen` (which is shown where no
            other has), evenly spread over each.
        n_inputs: Test inputs of each task, the first ones; fewer where a chosen task has fewer.

    Returns:
        `{"methods", "tasks": [{"task", "domain", "split", "description", "prompts", "examples": [{"input", "expected",
        "answers": {method: text}}]}]}`; description and prompts are what the generator read.

    Raises:
        InputError: The setting has no generator, or fewer than one task is asked for.
    """
    if n_tasks < 1 or n_inputs < 1:
        raise InputError(f"example answers for {n_tasks} tasks with {n_inputs} inputs each; give 1 or more")
    if setting.generator is None:
        raise InputError("example answers need a generator; give --run")
    questions = _choose(setting, n_tasks)
    count = min(n_inputs, *(len(setting.examples(question.task)) for question in questions))
    shown = [method for method in METHODS_SHOWN if not (METHODS[method].needs_teacher and setting.untaught)]
    answers = {method: _answers(setting, method, questions, count) for method in shown}
    rows = []
    for k, question in enumerate(questions):
        description, prompts = question.condition(*setting.condition_kind)
        examples = [
            {
                "input": example.input,
                "expected": example.output,
                "answers": {method: of_method[k * count + i] for method, of_method in answers.items()},
            }
            for i, example in enumerate(setting.examples(question.task)[:count])
        ]
        rows.append(
            {
                "task": question.task.name,
                "domain": question.task.domain,
                "split": question.split,
                "description": description,
                "prompts": list(prompts),
                "examples": examples,
            }
        )
    return {"methods": shown, "tasks": rows}


def read_answers(path: str | Path) -> dict[str, Any]:
    """Read what `answer_examples` returned, saved as JSON; InputError when it is something else."""
    document = read_json(path)
    try:
        for task in document["tasks"]:
            wanted = all({"input", "expected"} <= row.keys() and row["answers"].keys() for row in task["examples"])
            if not (wanted and {"task", "split", "description", "prompts"} <= task.keys()):
                raise KeyError
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not example answers (expected tasks with examples); write it anew with 'llgbm evaluate'") from error
    return document


def _choose(setting: Setting, n_tasks: int) -> list[Question]:
    """Questions of the splits in turn, evenly spread within each; the first is the first split's first."""
    splits = [split for split in setting.config.splits or setting.zoo.suite.splits if split != SEEN]
    pools = [pool for split in splits if (pool := setting.questions(split))] or [setting.questions(SEEN)]
    chosen = []
    for i, pool in enumerate(pools):
        share = min(len(pool), n_tasks // len(pools) + (i < n_tasks % len(pools)))  # the first splits get what is left over
        chosen += [pool[j * len(pool) // share] for j in range(share)]
    return chosen


def _answers(setting: Setting, method: str, questions: Sequence[Question], count: int) -> list[str]:
    """The first inputs of each question's task, answered with one method's adapters: `count` texts per question, in order."""
    factors = METHODS[method].attempt(setting, questions).factors
    inputs = [example.input for question in questions for example in setting.examples(question.task)[:count]]
    return complete(setting.functional, factors, setting.framing, inputs)
