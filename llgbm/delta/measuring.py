"""What a worker does that measures adapters: it holds base and probes, gets factors of adapters that share a forward, returns deltas."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llgbm.config import ExperimentConfig, ModelConfig
from llgbm.delta.engine import DeltaEngine, make_engine
from llgbm.fanout.crew import Tick
from llgbm.files import hash_json
from llgbm.lora.factors import LoRAFactors
from llgbm.probes import ProbeSet
from llgbm.zoo.base import BaseIdentity, BaseOptions, load_configured, load_recorded


@dataclass(frozen=True)
class Recorded:
    """The base of something that was made, instead of a config's."""

    what: str
    """What was made, for messages."""
    base: BaseIdentity
    options: BaseOptions
    """What is asked for instead of what is recorded."""


@dataclass(frozen=True)
class Measure:
    """What is known of deltas before the first is measured."""

    config: dict[str, Any]
    """As `DeltaEngine.config`."""
    shapes: dict[str, tuple[int, int]]
    """Of the modules that adapters may touch."""
    adapters_at_once: int
    base_activation: np.ndarray
    model: ModelConfig
    """Loads the base that is measured on."""
    max_length: int
    cut_probes: dict[str, int]


class Measuring:
    """A worker of `fill_cache`."""

    def __init__(self, engine: DeltaEngine) -> None:
        self.engine = engine

    @classmethod
    def load(
        cls, config: ExperimentConfig, probes: ProbeSet, layers: str | None = None, tokens: str | None = None, of: Recorded | None = None
    ) -> "Measuring":
        """Load a base and measure it on the probes.

        Args:
            config: Its sections model, probe and delta are read.
            probes: Its probes, which need not lie where the worker runs; the base has to.
            layers: As `make_engine`.
            tokens: As `make_engine`.
            of: Whose base, if not the config's.

        Raises:
            InputError: The base cannot be loaded, is not the recorded one, or the probes do not fit it.
        """
        base = load_configured(config.model) if of is None else load_recorded(of.what, of.base, of.options)
        return cls(make_engine(config, layers, tokens, base=base, probes=probes))

    @property
    def identity(self) -> str:
        """Hash of everything but the adapter that decides a delta."""
        return hash_json(self.engine.config)

    def survey(self) -> Measure:
        """What a plan needs to know."""
        engine = self.engine
        return Measure(
            config=engine.config,
            shapes=dict(engine.functional.shapes),
            adapters_at_once=engine.adapters_at_once,
            base_activation=engine.base_activation,
            model=engine.base.as_configured(),
            max_length=engine.options.max_length,
            cut_probes=engine.cut_probes,
        )

    def deltas(self, factors: LoRAFactors, tick: Tick | None = None) -> np.ndarray:
        """As `DeltaEngine.deltas`."""
        return self.engine.deltas(factors)
