"""The clock that benchmarks read."""

import time

import torch


def now() -> float:
    """Seconds, read once the accelerator, if there is one, has finished what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
