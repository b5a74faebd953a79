"""Deltas of a whole folder of adapters into a cache: only what is missing, in chunks, over any number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from llgbm.config import ExperimentConfig
from llgbm.delta.cache import MANIFEST, DeltaCache
from llgbm.delta.engine import DeltaEngine, DeltaOptions, make_engine
from llgbm.errors import InputError
from llgbm.lora.bulk import read_readable
from llgbm.progress import ProgressCallback
from llgbm.zoo.base import Base, BaseIdentity, BaseOptions, load_recorded


@dataclass
class DeltaReport:
    """What one call did; every one of several processes gets the report of all."""

    computed: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Adapters that could not be read, or whose delta is not finite -> why."""
    corrupt: list[str] = field(default_factory=list)
    """Cache entries that were damaged and have been computed anew."""


def compute_deltas(
    engine: DeltaEngine, adapter_paths: Sequence[str | Path], cache: DeltaCache, progress: ProgressCallback | None = None
) -> DeltaReport:
    """Compute and store the deltas of adapters that the cache does not hold yet.

    Adapters share forwards in the order given; processes started by torchrun take chunks in turn, so the cache is the
    same to the bit however many there are.

    Args:
        engine: Base, probes and options.
        adapter_paths: PEFT adapter folders; they are also the names in the cache.
        cache: Bound to the engine's configuration.
        progress: Called with the adapters done and to do.

    Raises:
        InputError: The cache holds deltas of another configuration. Unreadable adapters do not stop the rest.
    """
    cache.bind(engine.config)
    state, report = PartialState(cpu=engine.functional.device.type == "cpu"), DeltaReport()
    if state.is_main_process:
        _keep_base(engine, cache, report)
    size = engine.adapters_at_once
    chunks = [[str(path) for path in adapter_paths[start : start + size]] for start in range(0, len(adapter_paths), size)]
    mine = chunks[state.process_index :: state.num_processes]
    done, total = 0, sum(map(len, mine))
    for chunk in mine:
        _compute_chunk(engine, chunk, cache, report)
        done += len(chunk)
        if progress:
            progress(done, total, failed=len(report.failed))
    state.wait_for_everyone()
    return report if state.num_processes == 1 else _merged(gather_object([report]))


def engine_of_cache(
    config: ExperimentConfig, cache: DeltaCache, options: BaseOptions | None = None, base: Base | None = None
) -> DeltaEngine:
    """The engine that filled a cache: probes from the config; base, layers, tokens and aggregation as the cache has them.

    Args:
        config: Its section probe is read.
        cache: Filled by `compute_deltas`.
        options: Another place or device of the base than the cache recorded.
        base: If it is loaded already.

    Raises:
        InputError: The cache does not say how its deltas were measured, or was filled with another base or other probes.
    """
    stored = cache.manifest["config"]
    if not stored:
        raise InputError(
            f"{cache.cache_dir}: does not say how deltas were measured; run 'llgbm compute-deltas --deltas {cache.cache_dir}' first"
        )
    recorded = BaseIdentity.read(stored.get("base"), cache.cache_dir / MANIFEST)
    base = base or load_recorded(f"cache {cache.cache_dir}", recorded, options)
    kept = {field.name: stored[field.name] for field in fields(DeltaOptions) if field.name in stored}
    if isinstance(kept.get("layers"), list):
        kept["layers"] = tuple(kept["layers"])
    engine = make_engine(config, options=DeltaOptions(**kept), base=base)
    cache.bind(engine.config)
    return engine


def _merged(reports: list[DeltaReport]) -> DeltaReport:
    whole = DeltaReport()
    for part in reports:
        whole.computed += part.computed
        whole.reused += part.reused
        whole.failed |= part.failed
        whole.corrupt += part.corrupt
    return whole


def _keep_base(engine: DeltaEngine, cache: DeltaCache, report: DeltaReport) -> None:
    """Store the base's own states unless they are there and sound."""
    faults = len(cache.faults)
    if cache.get_base_activation() is None:
        cache.save_base_activation(engine.base_activation, engine.config)
    report.corrupt += cache.faults[faults:]


def _compute_chunk(engine: DeltaEngine, paths: list[str], cache: DeltaCache, report: DeltaReport) -> None:
    """One chunk. If anything is missing the whole chunk is forwarded again, so that an entry's bits do not depend on what was missing."""
    batch = read_readable(paths, engine.functional.shapes)
    report.failed |= batch.failures
    if batch.factors is None:
        return
    keys = {path: engine.key(batch.factors.content_hash(i)) for i, path in enumerate(batch.paths)}
    faults = len(cache.faults)
    held = cache.held(keys)
    missing = [path for path in keys if path not in held]
    report.corrupt += cache.faults[faults:]
    report.reused += [path for path in keys if path in held]
    if not missing:
        return
    deltas = dict(zip(batch.paths, engine.deltas(batch.factors), strict=True))
    for path in [path for path in missing if not np.isfinite(deltas[path]).all()]:
        report.failed[path] = f"adapter {path}: its delta has NaN or infinite values in {engine.config['dtype']}; check its scaling"
        missing.remove(path)
    cache.save_deltas({path: (keys[path], deltas[path]) for path in missing})
    report.computed += missing
