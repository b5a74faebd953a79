"""Timing a backend: every way to serve, in rounds, so that what disturbs the machine disturbs all ways alike.

A round answers one batch of each size in each way, in an order drawn anew; ratios are of two times of one round.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic.dataclasses import dataclass
from torch import Tensor

from llgbm.bench.clock import now
from llgbm.checking import RECORD, Integer, List, Number
from llgbm.memory import peak_bytes
from llgbm.study.config import DeploymentConfig
from llgbm.study.serving import Backend, Kind, Serve

FEWEST_ROUNDS = 5
SWITCHES = 5
"""Times each switch is timed, after one that is not."""
MERGED = "merged"


@dataclass(frozen=True, config=RECORD)
class Serving:
    """One way to serve at one batch size."""

    way: str
    """base, merged, `1 adapter`, `4 adapters`: side by side in one batch, or as many of them as it has requests."""
    adapters: Integer
    """Taking turns; 0 where there is none, or it is merged."""
    batch_size: Integer
    seconds: List[Number]
    """From prompts to the last token of all answers, one per round."""
    latency_ms: dict[str, Number]
    """mean, p50, p95, p99."""
    tokens_per_s: Number
    weights_bytes: Integer
    """Model and all resident adapters."""
    peak_bytes: Integer
    """Tensors beyond them at the worst moment of a batch, its cache included; of vLLM only the cache that it reserves is seen."""
    ratio: Number
    """Median over rounds of the time against that of the merged model in the same round."""


@plain_dataclass(frozen=True)
class Way:
    """A way to serve."""

    name: str
    kind: Kind
    adapters: int

    def chosen(self, batch_size: int, turn: int) -> list[int]:
        """The adapter of each request; they take turns, from batch to batch where there are more of them than requests."""
        return [(turn * batch_size + row) % max(1, self.adapters) for row in range(batch_size)]


def ways(adapters: Sequence[int]) -> list[Way]:
    """base, merged, and unmerged adapters: one, and as many as asked for."""
    counts = [1, *(count for count in adapters if count != 1)]
    plain = [Way("base", "base", 0), Way(MERGED, "merged", 0)]
    return plain + [Way(f"{count} adapter{'s' * (count > 1)}", "adapters", count) for count in counts]


def time_backend(
    backend: Backend, prompts: Int[Tensor, "B T"], config: DeploymentConfig, tick: Callable[[int], None] | None = None
) -> list[Serving]:
    """Times of every way and batch size.

    Args:
        backend: What serves.
        prompts: As many as the largest batch has.
        config: Batch sizes, adapters, rounds.
        tick: Called with the number of rounds that are done.
    """
    asked = [(way, size) for size in config.batch_sizes for way in ways(config.adapters)]
    servers = {kind: backend.server(kind) for kind in ("base", "merged", "adapters")}
    peaks = [
        peak_bytes(lambda w=way, s=size: _serve(servers, w, s, prompts, 0), prompts.device) + backend.reserved_bytes for way, size in asked
    ]
    seconds: list[list[float]] = [[] for _ in asked]
    rng, begun = random.Random(0), time.monotonic()
    for turn in range(config.repeats):
        if turn >= FEWEST_ROUNDS and time.monotonic() - begun > 60 * config.minutes:
            break
        for place in _round(rng, asked, config.batch_sizes):
            way, size = asked[place]
            start = now()
            _serve(servers, way, size, prompts, turn)
            seconds[place].append(now() - start)
        if tick:
            tick(turn + 1)
    merged = {size: times for (way, size), times in zip(asked, seconds, strict=True) if way.name == MERGED}
    return [
        _serving(way, size, times, merged[size], peak, backend.weights(way.kind), config.new_tokens)
        for (way, size), times, peak in zip(asked, seconds, peaks, strict=True)
    ]


def time_switches(backend: Backend) -> dict[str, float]:
    """Median milliseconds of each way from one adapter to another."""
    found = {}
    for name, switch in backend.switches().items():
        switch()
        times = []
        for _ in range(SWITCHES):
            start = now()
            switch()
            times.append(now() - start)
        found[name] = 1000 * statistics.median(times)
    return found


def _round(rng: random.Random, asked: Sequence[tuple[Way, int]], sizes: Sequence[int]) -> Iterator[int]:
    """Places of `asked`, size by size, ways in a new order each time."""
    for size in sizes:
        places = [place for place, (_, of_size) in enumerate(asked) if of_size == size]
        yield from rng.sample(places, len(places))


@torch.no_grad()
def _serve(servers: dict[Any, Serve], way: Way, size: int, prompts: Tensor, turn: int) -> Tensor:
    return servers[way.kind](prompts[:size], way.chosen(size, turn))


def _serving(
    way: Way, size: int, seconds: list[float], merged: list[float], peak: int, weights: Sequence[Tensor], new_tokens: int
) -> Serving:
    quantiles = dict(zip(("p50", "p95", "p99"), 1000 * np.quantile(seconds, (0.5, 0.95, 0.99)), strict=True))
    latency = {"mean": 1000 * float(np.mean(seconds)), **{name: float(value) for name, value in quantiles.items()}}
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights}
    return Serving(
        way.name, way.adapters, size, seconds, latency, size * new_tokens / float(np.mean(seconds)), sum(held.values()), peak,
        float(np.median(np.array(seconds) / np.array(merged))),
    )  # fmt: skip
