"""`llgbm bench cache`: a cache of a hundred thousand deltas opened, grown and searched, beside what rewriting its manifest would cost."""

import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from llgbm.bench.clock import timed
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache
from llgbm.files import write_json
from llgbm.retrieval import AdapterIndex

DIM, CHUNK, ADDED = 64, 1000, 100
"""Numbers of a delta; deltas stored at once while the cache is filled, and afterwards."""


def bench_cache(config: ExperimentConfig, entries: int = 100_000) -> dict[str, Any]:
    """Seconds, and the peak of memory in MB; deltas are random, of the seed `config.seed`."""
    rows = np.random.default_rng(config.seed).standard_normal((entries + ADDED, DIM)).astype(np.float32)
    named = {f"adapters/{i:06}": (f"key{i:06}", row) for i, row in enumerate(rows)}
    paths, figures = list(named), dict[str, Any](entries=entries, added=ADDED)
    with tempfile.TemporaryDirectory() as name:
        folder, index_folder = Path(name) / "deltas", Path(name) / "index"
        filling, figures["fill_s"] = timed(lambda: _fill(folder, named, paths[:entries]))
        figures["first_chunk_s"], figures["last_chunk_s"] = filling[0], filling[-1]
        cache, figures["open_s"] = timed(lambda: DeltaCache(folder))
        _, figures["rewrite_manifest_s"] = timed(lambda: write_json(Path(name) / "manifest.json", cache.manifest))
        _, figures["index_s"] = timed(lambda: AdapterIndex.kept(index_folder, cache))
        _, figures["add_s"] = timed(lambda: cache.save_deltas({path: named[path] for path in paths[entries:]}))
        index, figures["grow_index_s"] = timed(lambda: AdapterIndex.kept(index_folder, cache))
        hits, figures["search_s"] = timed(lambda: index.search(rows[-1], 5))
        figures["found"] = hits[0][0] == paths[-1]
        figures["cache_bytes_per_entry"] = (folder / "adapters.jsonl").stat().st_size / (entries + ADDED)
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def _fill(folder: Path, named: dict[str, tuple[str, np.ndarray]], paths: list[str]) -> list[float]:
    """Store everything in chunks, and give the seconds of each."""
    cache = DeltaCache(folder)
    cache.bind({"base": "none"})
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    return [timed(lambda chunk=chunk: cache.save_deltas({path: named[path] for path in chunk}))[1] for chunk in chunks]
