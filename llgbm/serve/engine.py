"""One thread that answers whoever waits, by a backend that takes many requests and adapters at a time."""

import queue
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from llgbm.framing import Framing
from llgbm.serve.shelf import Shelf


class BusyError(Exception):
    """So many requests wait already that one more would wait too long."""


class DeadError(Exception):
    """No request is answered any more."""


@dataclass(frozen=True)
class Answer:
    """What a request gets."""

    text: str
    prompt_tokens: int
    new_tokens: int
    """The end token included."""
    ended: bool
    """Whether the model came to an end by itself."""

    @classmethod
    def read(cls, framing: Framing, prompt: Sequence[int], new: Sequence[int]) -> "Answer":
        """From the tokens that a backend wrote, up to the first end token."""
        ended = next((place for place, token in enumerate(new) if token in framing.ends), None)
        own = new if ended is None else new[: ended + 1]
        return cls(framing.text(own).strip(), len(prompt), len(own), ended is not None)


@dataclass(frozen=True, eq=False)
class Job:
    """A request that waits."""

    sentence: str | None
    """Names the adapter; None asks the base."""
    prompt: list[int]
    max_tokens: int
    answer: "Future[Answer]" = field(default_factory=Future)


class Backend(Protocol):
    """What computes answers; only the engine's thread calls it."""

    shelf: Shelf[Any]
    """The adapters."""
    most: int
    """Jobs it takes on at a time."""

    @property
    def fault(self) -> str | None:
        """Why it will never answer again."""
        ...

    def __len__(self) -> int:
        """Jobs it has taken on and not yet answered."""
        ...

    def take(self, job: Job) -> None:
        """Take a job on; its faults are its answer."""
        ...

    def step(self) -> Iterable[tuple[Job, Answer | Exception]]:
        """Work a while on the jobs it has; those that are answered or failed. Jobs whose client went away may be left out."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Engine:
    """Answers jobs greedily, in the order they come.

    Args:
        backend: Only this engine may use it while it runs; closed with it.
        waiting: Most requests that wait.
    """

    def __init__(self, backend: Backend, waiting: int) -> None:
        self.backend = backend
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="llgbm-serve", daemon=True)
        self._thread.start()

    @property
    def shelf(self) -> Shelf[Any]:
        """The adapters."""
        return self.backend.shelf

    @property
    def waiting(self) -> int:
        """Requests that wait, about."""
        return self._jobs.qsize() + len(self.backend)

    @property
    def fault(self) -> str | None:
        """Why nothing will be answered any more."""
        return self.backend.fault if self._thread.is_alive() else "what computes answers has ended"

    def submit(self, job: Job) -> "Future[Answer]":
        """Let a job wait for its turn. BusyError when too many wait, DeadError when it would wait for ever."""
        if (fault := self.fault) is not None:
            raise DeadError(f"nothing is answered any more ({fault}); the server has to be started again")
        try:
            self._jobs.put_nowait(job)
        except queue.Full as error:
            raise BusyError(f"{self._jobs.maxsize} requests wait already; try again later") from error
        return job.answer

    def close(self) -> None:
        """Answer what waits, unless nothing is answered any more, then stop."""
        if self.fault is None:
            self._jobs.put(None)
            self._thread.join()
        self.backend.close()

    def _work(self) -> None:
        going = True
        while going or len(self.backend):
            going = self._fill(going)
            for job, answer in self.backend.step():
                if not job.answer.set_running_or_notify_cancel():
                    continue
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)

    def _fill(self, going: bool) -> bool:
        """Hand on what waits, and wait where nothing is to be done; whether more may come."""
        while going and len(self.backend) < self.backend.most:
            try:
                job = self._jobs.get(block=not len(self.backend))
            except queue.Empty:
                break
            if job is None:
                return False
            self.backend.take(job)
        return going
