"""What runs in a worker's process on a cluster: it builds the worker, does items, and says what went wrong as data.

Nothing here is imported by the driver's own work, and torch only in the worker, after its threads are decided.
"""

import logging
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llgbm.errors import InputError, first_line
from llgbm.fanout.crew import Job, Worker
from llgbm.fanout.shared import SharedFolder


@dataclass(frozen=True)
class Hello:
    """What a worker says of itself once it is built."""

    host: str
    pid: int
    identity: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a value, or why there is none."""

    value: Any = None
    refusal: str | None = None
    """An `InputError`: the input's fault, the same on every worker."""
    fault: str | None = None
    """Any other exception, in one line."""
    trace: str = ""
    warnings: tuple[str, ...] = ()
    """What the package logged meanwhile, of some weight."""

    def unwrapped(self, what: str) -> Any:
        """The value. InputError with a refusal, RuntimeError with another fault, which names what was being done."""
        if self.refusal is not None:
            raise InputError(self.refusal)
        if self.fault is not None:
            raise RuntimeError(f"a worker failed at {what}: {self.fault}") from RuntimeError(self.trace)
        return self.value


class Hand:
    """An actor: one process with one worker."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.worker: Worker | None = None

    def begin(self, job: Job, shared: SharedFolder | None = None) -> Outcome:
        """Build the worker, once this process sees the folder it is to write to; a `Hello`."""
        return self._outcome(lambda: self._begin(job, shared))

    def do(self, method: str, arguments: tuple[Any, ...]) -> Outcome:
        """One item."""
        return self._outcome(lambda: getattr(self.worker, method)(*arguments))

    def _begin(self, job: Job, shared: SharedFolder | None) -> Hello:
        if shared is not None:
            shared.enter()
        import torch

        from llgbm.tracking.environment import get_environment_info

        torch.set_num_threads(self.threads)
        self.worker = job.make(*job.arguments)
        return Hello(socket.gethostname(), os.getpid(), self.worker.identity, get_environment_info())

    def _outcome(self, call: Callable[[], Any]) -> Outcome:
        heard = _Warnings()
        logging.getLogger("llgbm").addHandler(heard)
        try:
            found = Outcome(call())
        except InputError as error:
            found = Outcome(refusal=str(error))
        except Exception as error:  # crosses to the driver as data, which raises it there
            found = Outcome(fault=f"{type(error).__name__}: {first_line(error)}", trace=traceback.format_exc())
        finally:
            logging.getLogger("llgbm").removeHandler(heard)
        return replace(found, warnings=tuple(dict.fromkeys(heard.texts)))


class _Warnings(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
