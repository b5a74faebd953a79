"""Deltas of a whole folder of adapters into a cache: only what is missing, in chunks, over any number of processes.

Adapters are read, and deltas written, by the process that was asked; workers only measure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from llgbm.config import ExperimentConfig
from llgbm.delta.cache import MANIFEST, DeltaCache, delta_key
from llgbm.delta.engine import DeltaEngine, DeltaOptions, make_engine
from llgbm.delta.measuring import Measure, Measuring
from llgbm.errors import InputError
from llgbm.fanout.crew import Crew, Item, Job
from llgbm.fanout.local import Local
from llgbm.lora.bulk import AdapterBatch, read_readable
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
    with Local().crew(Job(Measuring, (engine,))) as crew:
        return fill_cache(crew, adapter_paths, cache, progress)


def fill_cache(
    crew: Crew,
    adapter_paths: Sequence[str | Path],
    cache: DeltaCache,
    progress: ProgressCallback | None = None,
    measure: Measure | None = None,
) -> DeltaReport:
    """`compute_deltas` by a crew of `Measuring`.

    Args:
        crew: Its workers get factors and need not see the adapters' folders.
        adapter_paths: As `compute_deltas`.
        cache: As `compute_deltas`.
        progress: Called with the adapters done and to do.
        measure: What the crew said of itself, if it was asked already.
    """
    measure = crew.ask("survey") if measure is None else measure
    assert measure is not None
    cache.bind(measure.config)
    state = PartialState(cpu=measure.config["base"]["device"] == "cpu")
    paths, size = [str(path) for path in adapter_paths], measure.adapters_at_once
    chunks = [paths[start : start + size] for start in range(0, len(paths), size)][state.process_index :: state.num_processes]
    filling = _Filling(measure, cache, chunks, progress)
    if state.is_main_process:
        filling.keep_base()
    for name, deltas in crew.map("deltas", filling.items()):
        filling.store(name, deltas, **crew.figures())
    state.wait_for_everyone()
    report = filling.report if state.num_processes == 1 else _merged(gather_object([filling.report]))
    order = {path: i for i, path in enumerate(paths)}
    report.computed.sort(key=lambda path: order[path])
    return report


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


class _Filling:
    """Reads chunk after chunk, passes over what the cache holds, and stores what comes back."""

    def __init__(self, measure: Measure, cache: DeltaCache, chunks: list[list[str]], progress: ProgressCallback | None) -> None:
        self.measure, self.cache, self.chunks, self.progress = measure, cache, chunks, progress
        self.report, self.done = DeltaReport(), 0
        self._in_work: dict[str, tuple[list[str], list[str], dict[str, str]]] = {}
        """Of each chunk that is measured: its adapters, the sound ones of them, and path -> key of those the cache lacks."""

    def keep_base(self) -> None:
        """Store the base's own states unless they are there and sound."""
        faults = len(self.cache.faults)
        if self.cache.get_base_activation() is None:
            self.cache.save_base_activation(self.measure.base_activation, self.measure.config)
        self.report.corrupt += self.cache.faults[faults:]

    def items(self) -> Iterator[Item]:
        """Every chunk of which a delta is missing, whole: an entry's bits do not depend on what else was missing."""
        for i, paths in enumerate(self.chunks):
            batch = read_readable(paths, self.measure.shapes)
            self.report.failed |= batch.failures
            missing = self._missing(batch)
            if missing:
                name = f"chunk {i + 1} of {len(self.chunks)} (from {paths[0]} on)"
                self._in_work[name] = paths, batch.paths, missing
                yield name, (batch.factors,)
            else:
                self._show(paths)

    def store(self, name: str, deltas: np.ndarray, **figures: Any) -> None:
        """Store what the cache lacks of a chunk."""
        asked, sound, missing = self._in_work.pop(name)
        found = dict(zip(sound, deltas, strict=True))
        for path in [path for path in missing if not np.isfinite(found[path]).all()]:
            dtype = self.measure.config["dtype"]
            self.report.failed[path] = f"adapter {path}: its delta has NaN or infinite values in {dtype}; check its scaling"
            del missing[path]
        self.cache.save_deltas({path: (key, found[path]) for path, key in missing.items()})
        self.report.computed += missing
        self._show(asked, **figures)

    def _missing(self, batch: AdapterBatch) -> dict[str, str]:
        """Path -> key of the adapters whose delta is not there."""
        if batch.factors is None:
            return {}
        keys = {path: delta_key(self.measure.config, batch.factors.content_hash(k)) for k, path in enumerate(batch.paths)}
        faults = len(self.cache.faults)
        held = self.cache.held(keys)
        self.report.corrupt += self.cache.faults[faults:]
        self.report.reused += [path for path in keys if path in held]
        return {path: key for path, key in keys.items() if path not in held}

    def _show(self, paths: list[str], **figures: Any) -> None:
        self.done += len(paths)
        if self.progress:
            self.progress(self.done, sum(map(len, self.chunks)), failed=len(self.report.failed), **figures)
