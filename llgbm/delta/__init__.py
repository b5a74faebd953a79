"""What an adapter does to hidden states: the engine that measures it and the cache that keeps it."""

from llgbm.delta.behavior import Behavior, Predictions, observe, top_predictions
from llgbm.delta.cache import DeltaCache, comparable, delta_key, difference
from llgbm.delta.compute import DeltaReport, compute_deltas, engine_of_cache, fill_cache
from llgbm.delta.engine import (
    DeltaEngine,
    DeltaOptions,
    aggregate,
    compute_adapter_delta,
    compute_base_activation,
    encode_probes,
    make_engine,
    token_states,
)
from llgbm.delta.measuring import Measure, Measuring, Recorded

__all__ = [
    "Behavior",
    "DeltaCache",
    "DeltaEngine",
    "DeltaOptions",
    "DeltaReport",
    "Measure",
    "Measuring",
    "Predictions",
    "Recorded",
    "aggregate",
    "comparable",
    "compute_adapter_delta",
    "compute_base_activation",
    "compute_deltas",
    "delta_key",
    "difference",
    "encode_probes",
    "engine_of_cache",
    "fill_cache",
    "make_engine",
    "observe",
    "token_states",
    "top_predictions",
]
