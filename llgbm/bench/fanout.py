"""`llgbm bench fanout`: batches of teachers by two single-thread workers of a Ray cluster against one, the same processes in turn."""

import os
from dataclasses import replace
from statistics import median
from typing import Any

from llgbm.bench.clock import timed
from llgbm.config import ExperimentConfig
from llgbm.fanout.crew import Item, Job
from llgbm.fanout.ray import RayEngine, Seat
from llgbm.fanout.ray_crew import RayCrew
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.teaching import Taught, Teaching

WORKERS = 2


def bench_fanout(config: ExperimentConfig, batches: int = 4, teachers: int = 10, steps: int = 60, repeats: int = 3) -> dict[str, Any]:
    """Seconds of all batches, medians over repeats, and the median of each repeat's ratio; workers have loaded the base before.

    One worker gets a batch when the one before has come back; two get them as they are free.
    """
    suite = micro_suite(n_train=40, n_test=4).spaced(batches * teachers)
    tasks = list(suite)
    groups = [[(task, 0) for task in tasks[start : start + teachers]] for start in range(0, len(tasks), teachers)]
    items: list[Item] = [(f"batch {i}", (group, [*range(len(group))])) for i, group in enumerate(groups)]
    zoo = replace(config.zoo, suite="micro", steps=steps, check_interval=steps)
    job = Job(Teaching, (replace(config, zoo=zoo), suite))
    one, two, same = [], [], True
    with RayEngine(None, WORKERS, Seat(1)) as engine, engine.crew(job) as crew:
        while sum(member.hello is not None for member in crew.members) < WORKERS:
            list(crew.map("survey", [(str(i), ()) for i in range(WORKERS)]))
        for _ in range(repeats):
            alone, seconds = timed(lambda: {name: found for item in items for name, found in crew.map("train", [item])})
            one.append(seconds)
            both, seconds = timed(lambda: dict(crew.map("train", items)))
            two.append(seconds)
            same = same and _hashes(alone) == _hashes(both)
        return {"one_worker_s": median(one), "two_workers_s": median(two), **_figures(crew, one, two, same, len(tasks), steps)}


def _figures(crew: RayCrew, one: list[float], two: list[float], same: bool, n_teachers: int, steps: int) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    return {
        "speed_up": median(ratios),
        "speed_ups": ratios,
        "same_bits": same,
        "lost": crew.lost,
        "teachers": n_teachers,
        "steps": steps,
        "cores": os.cpu_count(),
    }


def _hashes(found: dict[str, Taught]) -> dict[str, list[str]]:
    return {name: [taught.factors.content_hash(k) for k in range(taught.factors.n_adapters)] for name, taught in sorted(found.items())}
