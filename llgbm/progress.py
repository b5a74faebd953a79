"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere.

Core functions take a callback and know nothing of terminals: `progress(done, total, **figures)`.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

ProgressCallback = Callable[..., None]
SECONDS_BETWEEN_LINES = 5.0
RATE_SECONDS = 30.0
"""The rate, and the time left by it, are those of this last while."""


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
        self.bar = self._rich() if self.stream.isatty() else None
        self.task = self.bar.add_task(label, total=None, figures="") if self.bar else None

    def __enter__(self) -> "ProgressBar":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, done: int, total: int, **figures: Any) -> None:
        """Show that `done` of `total` units are finished, with figures such as `loss=0.1`."""
        now = self.clock()
        speed = self._speed(now, done, total)
        shown = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, figures=f"{speed}  {shown}".strip())
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
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        return Progress(*columns, console=Console(file=self.stream), transient=False)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
