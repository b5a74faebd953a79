"""Which process did something, and whether that very one still runs: process ids are given anew, start times are not."""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

SAME_START_S = 2.0
"""Start times of one process, read at two moments, differ by less: a clock may have been set in between."""


@dataclass(frozen=True)
class Holder:
    """A process, as a lock or a run's record names it."""

    pid: int
    started: float
    """When the process started, in seconds since 1970; process ids are given anew."""
    host: str
    command: str
    since: str

    @classmethod
    def of(cls, content: Any) -> "Holder | None":
        """From JSON; None where that names no process."""
        try:
            return cls(int(content["pid"]), float(content["started"]), *(str(content[key]) for key in ("host", "command", "since")))
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, which alone can be looked at."""
        return self.host == socket.gethostname()

    @property
    def lives(self) -> bool:
        """Whether that very process still runs on this machine."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.started) < SAME_START_S
        except psutil.NoSuchProcess:
            return False


def this_process() -> Holder:
    """The process that asks."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
    return Holder(os.getpid(), psutil.Process().create_time(), socket.gethostname(), command, timestamp())


def timestamp() -> str:
    """This second in UTC, as records and artifacts have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the process, of those that a launcher (torchrun, accelerate) started together, that alone writes records."""
    return environment.get("RANK", "0") == "0"
