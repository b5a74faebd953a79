"""The engine of one process: its one worker does item after item, in their order."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from llgbm.fanout.crew import Item, Job, Tick, Worker


class LocalCrew:
    """One worker in this process, built when it is first needed."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @cached_property
    def worker(self) -> Worker:
        return self.job.make(*self.job.arguments)

    def map(self, method: str, items: Iterable[Item], tick: Tick | None = None) -> Iterator[tuple[str, Any]]:
        """As `Crew.map`."""
        for name, arguments in items:
            yield name, getattr(self.worker, method)(*arguments, tick=tick)

    def ask(self, method: str, *arguments: Any) -> Any:
        """As `Crew.ask`."""
        return getattr(self.worker, method)(*arguments)

    def figures(self) -> dict[str, Any]:
        """None."""
        return {}

    def record(self) -> dict[str, Any]:
        """None: the record of a run has this process."""
        return {}


class Local:
    """The default."""

    @contextmanager
    def crew(self, job: Job) -> Iterator[LocalCrew]:
        """As `Engine.crew`."""
        yield LocalCrew(job)
