"""The clock that benchmarks read."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def now() -> float:
    """Seconds, read once the accelerator, if there is one, has finished what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and its seconds."""
    start = now()
    found = work()
    return found, now() - start


def alone(work: Callable[[], object]) -> float:
    """Seconds of a computation with the machine to itself: with one thread on the CPU those of the processor, else on the clock."""
    if torch.accelerator.is_available() or torch.get_num_threads() > 1:
        return timed(work)[1]
    start = time.process_time()
    work()
    return time.process_time() - start
