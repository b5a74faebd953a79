"""torch's own generators at a seed, for functions of torch that take no generator."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A device's generator, of the CPU or CUDA, at a seed, and afterwards as it was; those of other devices are left alone."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        (torch.cuda.default_generators[device.index] if cuda else torch.default_generator).manual_seed(seed)
        yield
