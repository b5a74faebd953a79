"""`llgbm bench retrieve`: thousands of adapters through compute-deltas and retrieval; time, memory and search by their number."""

import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from llgbm.bench.clock import now
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache, DeltaEngine, compute_deltas
from llgbm.errors import InputError
from llgbm.lora.peft_io import write_adapter
from llgbm.probes import load_probes
from llgbm.retrieval import AdapterIndex
from llgbm.zoo.base import Base, load_configured
from llgbm.zoo.folder import TeacherZoo

NOISE = 0.05
"""Standard deviation of the noise on each tensor of a copy, relative to the tensor's own."""
QUERIES, HITS = 50, 5


def bench_retrieve(config: ExperimentConfig, sizes: Sequence[int] = (500, 1000, 2000)) -> dict:
    """Rows of figures, one for each number of noisy copies of the zoo's teachers."""
    zoo = TeacherZoo.load(config.checkpoint_folder)
    base = load_configured(config.model)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_copies(zoo, base, Path(folder) / "copies", max(sizes))
        compute_deltas(DeltaEngine(base, load_probes("generic")), paths[:20], DeltaCache(Path(folder) / "warm"))
        rows = [_measure(base, paths[:size], Path(folder) / f"deltas{size}") for size in sizes]
    return {"threads": torch.get_num_threads(), "noise": NOISE, "queries": QUERIES, "hits": HITS, "rows": rows}


def write_copies(zoo: TeacherZoo, base: Base, folder: Path, count: int) -> list[Path]:
    """PEFT folders of the teachers in turn, with noise."""
    generator, paths = torch.Generator().manual_seed(0), []
    for start in range(0, count, len(zoo.teachers)):
        factors = zoo.factors(zoo.teachers[: count - start])
        noisy = factors.map(lambda t: t + NOISE * t.std() * torch.randn(t.shape, generator=generator))
        for k in range(noisy.n_adapters):
            paths.append(folder / f"{start + k:05}")
            write_adapter(paths[-1], noisy, k, base_name=base.name)
    return paths


def _measure(base: Base, paths: Sequence[Path], folder: Path) -> dict:
    cache = DeltaCache(folder)
    start, cpu = now(), time.process_time()
    report = compute_deltas(DeltaEngine(base, load_probes("generic")), paths, cache)
    seconds, cpu = now() - start, time.process_time() - cpu
    if report.failed:
        raise InputError(next(iter(report.failed.values())))
    exact, graph = AdapterIndex(cache), AdapterIndex(cache, approximate=True)
    deltas = list(cache.get_all_deltas().values())
    generator = np.random.default_rng(0)
    queries = [
        delta + NOISE * delta.std() * generator.standard_normal(delta.shape).astype(np.float32)
        for delta in deltas[:: len(deltas) // QUERIES]
    ]
    exact_ms, exact_hits = _search(exact, queries)
    graph_ms, graph_hits = _search(graph, queries)
    return {
        "adapters": len(paths),
        "deltas_s": seconds,
        "of_it_cpu_s": cpu,  # the rest is waiting for the disk: every entry is synced
        "adapters_per_s": len(paths) / seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "exact_search_ms": exact_ms,
        "graph_search_ms": graph_ms,
        "graph_recall": statistics.mean(len(own & true) / HITS for own, true in zip(graph_hits, exact_hits, strict=True)),
    }


def _search(index: AdapterIndex, queries: Sequence[np.ndarray]) -> tuple[float, list[set[str]]]:
    """Median milliseconds of one search, and what each found."""
    times, found = [], []
    for query in queries:
        start = now()
        hits = index.search(query, HITS)
        times.append(1000 * (now() - start))
        found.append({path for path, _ in hits})
    return statistics.median(times), found
