"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere.

Core functions take a callback and know nothing of terminals: `progress(done, total, **figures)`.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

ProgressCallback = Callable[..., None]
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
SECONDS_BETWEEN_LINES = 5.0
BAR_WIDTH, TIME_AND_GAPS = 20, 12
"""Columns of a bar on a terminal, and of the time beside it with the gaps between; figures have what is left."""
RATE_SECONDS = 30.0
"""The rate, and the time left by it, are those of this last while."""


@contextmanager
def quietly() -> Iterator[None]:
    """Let progress bars made in here show nothing."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


class ProgressBar:
    """A progress callback and context manager.

    Args:
        label: What is being done.
        unit: What is counted, in the plural.
        stream: Where it shows; standard error by default, so that results on standard output stay clean.
        clock: Tells seconds.
    """

    def __init__(self, label: str, unit: str = "steps", stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.unit, self.stream, self.clock = label, unit, stream or sys.stderr, clock
        self.seen: deque[tuple[float, int]] = deque()
        self.last_line = -SECONDS_BETWEEN_LINES + clock()
        self.quiet = _quiet.get()
        self.bar = self._rich() if self.stream.isatty() and not self.quiet else None
        self.task = self.bar.add_task(label, total=None, count="", figures="") if self.bar else None

    def __enter__(self) -> "ProgressBar":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, done: int, total: int, **figures: Any) -> None:
        """Show that `done` of `total` units are finished, with figures such as `loss=0.1`."""
        if self.quiet:
            return
        now = self.clock()
        speed = "" if "now" in figures else self._speed(now, done, total)  # named steps take as long as they take
        shown = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self.bar and self.task is not None:
            count = f"{done}/{total}"
            room = self.bar.console.width - len(self.label) - BAR_WIDTH - len(count) - TIME_AND_GAPS
            self.bar.update(self.task, completed=done, total=total, count=count, figures=f"{speed}  {shown}".strip()[: max(0, room)])
        elif done >= total or now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            speed = f" ({speed})" if speed else ""
            print(f"{self.label}: {done}/{total} {self.unit}{speed}  {shown}".rstrip(), file=self.stream, flush=True)

    def _speed(self, now: float, done: int, total: int) -> str:
        """Units per second over the last while and the time left at that; nothing before two updates tell, or where counting began anew."""
        if self.seen and done < self.seen[-1][1]:
            self.seen.clear()
        self.seen.append((now, done))
        while len(self.seen) > 2 and self.seen[1][0] <= now - RATE_SECONDS:
            self.seen.popleft()
        (start, first) = self.seen[0]
        gained = done - first
        if not gained or now <= start:
            return ""
        rate = gained / (now - start)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if done < total else ""
        return f"{rate:.2g}/s{left}" if rate < 10 else f"{rate:.0f}/s{left}"

    def _rich(self) -> Progress:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        return Progress(*columns, console=Console(file=self.stream), transient=False)


class Steps:
    """Progress of work in named steps: called with the name of the step that begins now.

    Args:
        total: How many there are.
        progress: Shows them; None shows nothing.
    """

    def __init__(self, total: int, progress: ProgressCallback | None = None) -> None:
        self.total, self.progress, self.begun = total, progress, 0

    def __call__(self, name: str) -> None:
        if self.progress is not None:
            self.progress(min(self.begun, self.total - 1), self.total, now=name)
        self.begun += 1

    def end(self) -> None:
        """Everything is done, also the steps that were not needed."""
        if self.progress is not None:
            self.progress(self.total, self.total)


class Tally:
    """Progress of pieces of different sizes that end in any order.

    Args:
        total: The size of all.
        progress: Shows it; None shows nothing.
        figures: What stands beside it at any time.
    """

    def __init__(self, total: float, progress: ProgressCallback | None = None, figures: Callable[[], dict[str, Any]] = dict) -> None:
        self.total, self.progress, self.figures, self.done = total, progress, figures, 0.0

    def tick(self, inside: float = 0.0, **figures: Any) -> None:
        """So much of a piece is done that has not ended."""
        if self.progress is not None:
            self.progress(round(self.done + inside), round(self.total), **self.figures(), **figures)

    def add(self, size: float) -> None:
        """A piece of that size has ended."""
        self.done += size
        self.tick()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
