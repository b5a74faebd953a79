"""Progress of many trainings: examples learned from, of all there will be."""

from typing import Any

from llgbm.progress import ProgressCallback


class Meter:
    """Counts trainings one after another, each by its examples.

    Args:
        total: Examples of all trainings.
        progress: Shows them; None shows nothing.
    """

    def __init__(self, total: float, progress: ProgressCallback | None = None) -> None:
        self.total, self.progress, self.before, self.size, self.figures = total, progress, 0.0, 0.0, {}

    def begin(self, size: float, **figures: Any) -> None:
        """The next training, of so many examples; the figures stand beside it."""
        self.before += self.size
        self.size, self.figures = size, figures
        self.tick(0.0)

    def tick(self, share: float) -> None:
        """That share of the training is done."""
        if self.progress is not None:
            self.progress(round(self.before + share * self.size), round(self.total), **self.figures)
