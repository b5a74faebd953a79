"""What an engine is asked for: a crew of workers that are all built alike, and a stream of items that any of them may do.

Data flows one way: a worker is built from its job's arguments, gets an item, and returns plain data (arrays, factors on the CPU,
dataclasses); whoever asked writes the results. So a stage reads the same whatever engine runs it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Item = tuple[str, tuple[Any, ...]]
"""A name, for messages and to know the result by, and the arguments of the method that does it."""
Tick = Callable[..., None]
"""Called with how much of an item is done, and figures: `tick(12, loss=0.1)`."""


@runtime_checkable
class Worker(Protocol):
    """What a job builds: its methods take an item's arguments and the keyword `tick`, None where nobody watches."""

    @property
    def identity(self) -> str:
        """What has to be the same of every worker for their results to be of one kind: hashes of base and code read."""
        ...


@dataclass(frozen=True)
class Job:
    """How a worker is built, once in each process."""

    make: Callable[..., Worker]
    """A class or function that can be imported by its name."""
    arguments: tuple[Any, ...] = ()
    """Sent to each process; paths among them have to be visible there."""
    folder: str | Path | None = None
    """Where workers write themselves, which every node then has to share; they begin in the folder in which this process works."""


@runtime_checkable
class Crew(Protocol):
    """Workers of one job."""

    def map(self, method: str, items: Iterable[Item], tick: Tick | None = None) -> Iterator[tuple[str, Any]]:
        """Do every item once, and yield its name and result as soon as it is done, in whatever order that is.

        Args:
            method: Of the worker.
            items: Read only as far as there are workers for them.
            tick: Called within an item where the worker runs in this process.

        Raises:
            InputError: A worker refused its item, or could not be built.
        """
        ...

    def ask(self, method: str, *arguments: Any) -> Any:
        """What one worker answers."""
        ...

    def figures(self) -> dict[str, Any]:
        """For a progress bar: how many workers there are and work, and how many were lost."""
        ...

    def record(self) -> dict[str, Any]:
        """For the record of a run: where it ran, and what differs there from this process; nothing where all ran in this process."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs jobs somewhere."""

    def crew(self, job: Job) -> AbstractContextManager[Crew]:
        """Workers for a job, gone when the block ends."""
        ...
