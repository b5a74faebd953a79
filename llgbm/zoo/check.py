"""Is a base fit for a suite? Asked before teachers are trained, since training cannot mend what is found here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.zoo.base import Base
from llgbm.zoo.suite import TaskSuite

ALIKE = 0.01
"""Rows of the output embedding nearer than this, relative to their length, are one token to the model."""
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Finding:
    """One question about a base and its answer; `found` says what to do where it is not ok."""

    check: str
    ok: bool
    found: str
    notable: bool = False
    """Whether a build says it though it is ok."""


def check_base(base: Base, framing: Framing, suite: TaskSuite) -> list[Finding]:
    """Padding, end token, and the suite's lengths, in this order."""
    return [*_tokens(base, framing), _lengths(framing, suite)]


def require_fit(base: Base, framing: Framing, suite: TaskSuite) -> list[Finding]:
    """What is worth knowing of a base that is fit: examples left out. InputError with everything that `check_base` finds wrong."""
    findings = check_base(base, framing, suite)
    wrong = [f"{finding.check}: {finding.found}" for finding in findings if not finding.ok]
    if wrong:
        raise InputError(f"base {base.name} cannot learn suite {suite.name}: {'; '.join(wrong)}")
    return [finding for finding in findings if finding.notable]


def twins(base: Base, token: int) -> int:
    """How many other tokens have the same output embedding (to `ALIKE`), so that no state can tell them apart."""
    rows = _output_embeddings(base)
    own = rows[token].float()
    near = sum(int(((part.float() - own).norm(dim=1) < ALIKE * own.norm()).sum()) for part in rows.split(ROWS_AT_ONCE))
    return near - 1


def _output_embeddings(base: Base) -> torch.Tensor:
    """[V, D]"""
    head: Any = base.model.get_output_embeddings()
    return head.weight


@torch.no_grad()
def _tokens(base: Base, framing: Framing) -> Iterator[Finding]:
    said = {token: f"{base.tokenizer.decode([token])!r} (token {token})" for token in (framing.pad, framing.end)}
    yield Finding("padding", True, said[framing.pad])
    advice = "give one that the base knows, e.g. --zoo.end_token '\\n'"
    vocabulary = _output_embeddings(base).shape[0]
    if framing.end >= vocabulary:
        yield Finding("end token", False, f"{said[framing.end]} is none of the {vocabulary} that the base can write; {advice}")
        return
    others = twins(base, framing.end)
    if others:
        found = f"{said[framing.end]} has the output embedding of {others} other tokens, it cannot end an answer"
        yield Finding("end token", False, f"{found}; {advice}")
    else:
        yield Finding("end token", True, f"{said[framing.end]}, unlike every other")


def _lengths(framing: Framing, suite: TaskSuite) -> Finding:
    """Whether each task has examples that fit, and how many do not."""
    total = sum(len(task.train) + len(task.test) for task in suite)
    left = sum(len(framing.fitting(task.train)) + len(framing.fitting(task.test)) for task in suite)
    empty = [task.name for task in suite if not (framing.fitting(task.train) and framing.fitting(task.test))]
    found = f"{total - left} of {total} examples do not fit into {framing.max_length} tokens" + (
        " and are left out" if left < total else ""
    )
    if empty:
        found += (
            f"; task {empty[0]} has none left to train or test on, raise zoo.max_length, cut on the left (zoo.too_long) or leave it out"
        )
    return Finding("length", not empty, found, notable=left < total)
