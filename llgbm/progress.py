"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere.

Core functions take a callback and know nothing of terminals: `progress(done, total, **figures)`.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ProgressCallback = Callable[..., None]
SECONDS_BETWEEN_LINES = 5.0


class ProgressBar:
    """A progress callback and context manager.

    Args:
        label: What is being done.
        unit: What is counted, in the plural.
        stream: Where it shows; standard error by default, so that results on standard output stay clean.
    """

    def __init__(self, label: str, unit: str = "steps", stream: TextIO | None = None) -> None:
        self.label, self.unit, self.stream = label, unit, stream or sys.stderr
        self.start = time.monotonic()
        self.first_done: int | None = None
        self.last_line = -SECONDS_BETWEEN_LINES
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
        if self.first_done is None:
            self.first_done, self.start = done, time.monotonic()
        elapsed = time.monotonic() - self.start
        rate = (done - self.first_done) / elapsed if elapsed > 0 else 0.0
        shown = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, figures=f"{rate:.1f} {self.unit}/s  {shown}")
        elif done >= total or elapsed - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = elapsed
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
            print(f"{self.label}: {done}/{total} {self.unit} ({rate:.1f}/s{left})  {shown}".rstrip(), file=self.stream, flush=True)

    def _rich(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        return Progress(*columns, console=Console(file=self.stream), transient=False)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
