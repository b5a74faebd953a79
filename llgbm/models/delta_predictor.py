"""The predictor of fingerprints: from a set of embedded texts to the delta an adapter for that task would have.

Letters: K tasks, N vectors per task, E embedding width, F numbers of a flattened delta.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llgbm.config import DeltaConfig, ExperimentConfig, ProbeConfig
from llgbm.delta import DeltaCache, DeltaEngine, difference, make_engine
from llgbm.errors import InputError
from llgbm.models.encoder import TextEncoder
from llgbm.models.reader import SIZES, ConditionReader
from llgbm.zoo.base import Base, BaseIdentity


@dataclass
class PredictorSpec:
    """Everything `from_pretrained` needs to rebuild a predictor, and what its fingerprints are."""

    delta_dim: int
    """Numbers of a flattened delta."""
    embedding_dim: int
    delta_config: dict[str, Any]
    """`DeltaEngine.config` of the deltas it learned: base, probes, layers, tokens, aggregation."""
    probe: dict[str, Any]
    """The config's section probe, from which these probes are made again."""
    delta: dict[str, Any]
    """The config's section delta."""
    size: str = "s"
    slots: int = 1
    encoder: str = "hashing"
    encoder_id: str = ""
    """Content of the encoder it was trained with."""
    condition: str = "description"
    max_prompts: int = 8
    base: BaseIdentity | None = None
    """On which base its fingerprints were measured."""
    trained_on: list[str] = field(default_factory=list)
    """Tasks whose fingerprints were training targets."""
    validated_on: list[str] = field(default_factory=list)
    """Tasks held back to choose the checkpoint."""

    def emitted(self) -> int:
        """Numbers in one predicted fingerprint."""
        return self.delta_dim


class DeltaPredictor(ConditionReader):
    """Reads the embedded texts of K tasks, says what the hidden states of an adapter for each would do on the probes.

    Outputs are the training deltas' mean plus deviations in units of their spread; the deviations start at zero.
    """

    kind, trained_by, spec_type = "predictor", "llgbm train-delta-only --variant b2", PredictorSpec
    spec: PredictorSpec
    mean: Tensor
    scale: Tensor

    def __init__(self, spec: PredictorSpec, encoder: TextEncoder | None = None) -> None:
        super().__init__(spec, encoder)
        self.front, self.trunk = self.new_front(), self.new_trunk()
        self.head = nn.Linear(SIZES[spec.size].hidden, spec.delta_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.zeros(spec.delta_dim))
        self.register_buffer("scale", torch.ones(spec.delta_dim))

    def forward(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K F"]:
        """One flattened delta per task, float32, in residual-stream units; masked vectors do not count."""
        return self.mean + self.scale * self.head(self.trunk(self.front(embeddings, mask))).float()

    @torch.no_grad()
    def fit_scale(self, deltas: Float[Tensor, "P F"]) -> None:
        """Take mean and spread of every number from the training deltas; one that never varies keeps a small spread."""
        spread = deltas.std(0, correction=0)
        self.mean.copy_(deltas.mean(0))
        self.scale.copy_(spread.clamp_min(1e-3 * spread.square().mean().sqrt().clamp_min(1e-8)))

    def predict(
        self,
        prompts: Sequence[str] | Sequence[Sequence[str]] | None = None,
        description: str | Sequence[str] | None = None,
        base: Base | None = None,
    ) -> Float[Tensor, "K F"]:
        """The fingerprints of adapters for one task or many; `K` is 1 for one.

        Args:
            prompts: Unlabeled prompts of one task, or one such list for each task.
            description: The sentence that describes the task, or one for each task.
            base: The frozen base, for an encoder that reads it.

        Raises:
            InputError: Neither is given, the two disagree on the number of tasks, or a text is empty.
        """
        return self.answer(prompts, description, base)

    def engine(self, base: Base) -> DeltaEngine:
        """What measures deltas of the predicted kind.

        Raises:
            InputError: The base is another, or its probes have changed since.
        """
        sections = ExperimentConfig(probe=ProbeConfig(**self.spec.probe), delta=DeltaConfig(**self.spec.delta))
        engine = make_engine(sections, base=base)
        self.check(engine.config, f"base {base.name}")
        return engine

    def check_cache(self, cache: DeltaCache) -> None:
        """InputError when the cache holds deltas of another kind than the predicted ones."""
        self.check(cache.manifest["config"], f"cache {cache.cache_dir}")

    def check(self, config: dict[str, Any], what: str) -> None:
        """InputError when deltas of this configuration are not what is predicted."""
        differing = difference(self.spec.delta_config, config)
        if differing is not None:
            name, ours, theirs = differing
            raise InputError(
                f"{what}: its deltas have {name} {theirs}, the predictor learned {ours}; "
                "use what it was trained with, or train a predictor on these"
            )
