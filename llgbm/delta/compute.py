"""Deltas of a whole folder of adapters into a cache: only what is missing, in chunks, over any number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from llgbm.delta.cache import DeltaCache
from llgbm.delta.engine import DeltaEngine
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter
from llgbm.progress import ProgressCallback


@dataclass
class DeltaReport:
    """What one call did; of several processes, each reports its own share."""

    computed: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Adapters that could not be read -> why."""
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
    state, report = PartialState(), DeltaReport()
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
    return report


def _compute_chunk(engine: DeltaEngine, paths: list[str], cache: DeltaCache, report: DeltaReport) -> None:
    pending: dict[str, tuple[str, LoRAFactors]] = {}
    for path in paths:
        try:
            factors = read_adapter(path, engine.functional.shapes)
        except InputError as error:
            report.failed[path] = str(error)
            continue
        key = engine.key(factors.content_hash())
        faults = len(cache.faults)
        if cache.get_delta(path, key) is not None:
            report.reused.append(path)
            continue
        report.corrupt += cache.faults[faults:]
        pending[path] = (key, factors)
    if pending:
        deltas = engine.deltas(LoRAFactors.stack([factors for _, factors in pending.values()]))
        cache.save_deltas({path: (key, delta) for (path, (key, _)), delta in zip(pending.items(), deltas, strict=True)})
        report.computed += pending
