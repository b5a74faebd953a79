"""Several embeddings of the same adapters, as cosines of every pair: what each tells apart.

Shapes: K adapters, P probes, L + 1 hidden states, n response tokens, D hidden size, F numbers of an embedding.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from llgbm.config import ExperimentConfig
from llgbm.delta.cache import DeltaCache, comparable
from llgbm.delta.compute import engine_of_cache
from llgbm.delta.engine import DeltaEngine
from llgbm.errors import InputError
from llgbm.files import write_bytes
from llgbm.lora.factors import LoRAFactors, product_gram
from llgbm.lora.peft_io import read_adapters
from llgbm.probes import ProbeSet, suite_probes
from llgbm.tracking.stages import Stages
from llgbm.zoo.base import BaseOptions
from llgbm.zoo.folder import TeacherZoo

MAX_ADAPTERS = 500
"""Compared in pairs; more would tell no more and take memory with their square."""
TRAJECTORY_PROBES = 15


@dataclass(frozen=True)
class AdapterViews:
    """Embeddings of K adapters, by what matters of them here: how alike they make each pair."""

    paths: list[str]
    similarities: dict[str, Float[np.ndarray, "K K"]]
    """Name of the embedding -> cosine of every pair, float32; 0 where an adapter's embedding is zero."""
    layer_similarities: Float[np.ndarray, "layers K K"]
    """The same for the delta at each hidden state, the embeddings (0) first."""
    norms: Float[np.ndarray, "K layers"]
    """Norm of the delta over that of the base's state, mean over probes, at each hidden state."""

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {f"similarity/{i}": array for i, array in enumerate(self.similarities.values())}
        record = {"paths": self.paths, "names": list(self.similarities)}
        content = save({**tensors, "layers": self.layer_similarities, "norms": self.norms}, {"views": json.dumps(record)})
        write_bytes(path, content)

    @staticmethod
    def load(path: str | Path) -> "AdapterViews":
        """Read them back. InputError when there is no such file or it is not whole."""
        try:
            with safe_open(str(path), "numpy") as file:
                record = json.loads((file.metadata() or {})["views"])
                similarities = {name: file.get_tensor(f"similarity/{i}") for i, name in enumerate(record["names"])}
                return AdapterViews(record["paths"], similarities, file.get_tensor("layers"), file.get_tensor("norms"))
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path}: cannot be read as embeddings of adapters ({error}); run 'llgbm visualize' again") from error


def compute_views(
    engine: DeltaEngine,
    paths: list[str],
    factors: LoRAFactors,
    fingerprints: Float[np.ndarray, "K F"],
    answered: ProbeSet | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> AdapterViews:
    """Embed the adapters in every way.

    The output embedding is the distribution over the next token after each probe (roots of probabilities, so its cosine
    is the Bhattacharyya coefficient). Deltas of several layers count equally, whatever their size.

    Args:
        engine: Base, probes and options of the fingerprints.
        paths: Names of the K adapters.
        factors: Their factors.
        fingerprints: Their deltas as cached.
        answered: In-distribution probes with responses, for trajectories; None leaves these out.
        step: Called with the name of the step that begins.
    """
    step("deltas by layer")
    by_layer, norms = _layer_grams(engine, factors)
    grams = {"delta fingerprint": _gram([torch.from_numpy(fingerprints)]), "deltas of all layers": _balanced(by_layer)}
    if answered is not None:
        step("trajectories")
        grams["trajectory"] = _trajectory_gram(engine, factors, answered)
    step("output distributions")
    grams["output distribution"] = _output_gram(engine, factors)
    step("weights")
    grams["weights A, B"] = _gram(part.flatten(1) for part in factors.tensors())
    grams["weight change BA"] = product_gram(factors)
    return AdapterViews(
        paths, {name: _cosines(gram) for name, gram in grams.items()}, np.stack([_cosines(gram) for gram in by_layer]), norms
    )


def views_of_cache(
    config: ExperimentConfig,
    cache: DeltaCache,
    zoo_dir: str | Path,
    path: str | Path,
    options: BaseOptions | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> AdapterViews:
    """Embed the adapters of a cache in every way, unless the file at `path` holds just that already.

    Of more than `MAX_ADAPTERS` adapters, evenly spaced ones are taken. Trajectories need a zoo, whose suite has the answers.

    Raises:
        InputError: Adapters cannot be read any more, or base or probes are not those of the cache.
    """
    deltas = cache.get_all_deltas()
    names = list(deltas)[:: math.ceil(len(deltas) / MAX_ADAPTERS)]
    step("base and probes")
    engine = engine_of_cache(config, cache, options)
    answered = None
    if (Path(zoo_dir) / "manifest.json").exists():
        answered = suite_probes(TeacherZoo.load(zoo_dir).suite, with_responses=True).at_most(TRAJECTORY_PROBES)
    inputs = [
        comparable(engine.config),
        {name: cache.manifest["adapters"][name]["sha256"] for name in names},
        answered and answered.content_hash,
    ]

    def work() -> None:
        factors = read_adapters(names, engine.functional.shapes)
        fingerprints = np.stack([deltas[name].ravel() for name in names])
        compute_views(engine, names, factors, fingerprints, answered, step).save(path)

    Stages(Path(path).with_suffix(".json")).run("views", inputs, [path], work)
    return AdapterViews.load(path)


def _layer_grams(engine: DeltaEngine, factors: LoRAFactors) -> tuple[list[Tensor], np.ndarray]:
    """Inner products of the mean delta at each hidden state, and the relative norms."""
    options = replace(engine.options, layers="all", aggregation="none")
    every = DeltaEngine(engine.base, engine.probes, options)
    deltas = torch.from_numpy(every.deltas(factors))  # [K, L + 1, P, D]
    relative = deltas.norm(dim=-1) / every.base_states.cpu().norm(dim=-1).clamp_min(1e-12)
    return [_gram([deltas[:, layer].mean(1)]) for layer in range(deltas.shape[1])], relative.mean(-1).numpy()


def _trajectory_gram(engine: DeltaEngine, factors: LoRAFactors, answered: ProbeSet) -> Tensor:
    options = replace(engine.options, layers="all", tokens="response")
    along = DeltaEngine(engine.base, answered, options)
    own = along.behavior(factors, predictions=False).states
    base = along.behavior(None, predictions=False, times=factors.n_adapters).states
    assert own is not None
    assert base is not None
    return _balanced(_gram([(own[layer] - base[layer]).unflatten(0, (factors.n_adapters, -1)).flatten(1)]) for layer in along.layers)


def _output_gram(engine: DeltaEngine, factors: LoRAFactors) -> Tensor:
    """Probe by probe, so that large vocabularies fit."""
    options = replace(engine.options, tokens=-1)
    total = torch.zeros(factors.n_adapters, factors.n_adapters)
    for i, text in enumerate(engine.probes.texts):
        responses = engine.probes.responses and engine.probes.responses[i : i + 1]
        one = DeltaEngine(engine.base, ProbeSet(engine.probes.name, (text,), responses), options)
        predictions = one.behavior(factors).predictions
        assert predictions is not None
        total += _gram([(predictions.log_probs[:] / 2).exp()])
    return total


def _gram(parts: Iterable[Tensor]) -> Float[Tensor, "K K"]:
    """Inner products of rows that come in parts of columns."""
    return torch.stack([part.float() @ part.float().mT for part in parts]).sum(0).cpu()


def _balanced(grams: Iterable[Tensor]) -> Float[Tensor, "K K"]:
    """The sum of Gram matrices, each scaled to mean square length 1; those of zeros stay out."""
    return torch.stack([gram / (gram.trace() / len(gram)).clamp_min(1e-30) for gram in grams]).sum(0)


def _cosines(gram: Float[Tensor, "K K"]) -> Float[np.ndarray, "K K"]:
    length = gram.diagonal().clamp_min(0).sqrt().clamp_min(1e-15)
    return (gram / length[:, None] / length).clamp(-1, 1).numpy()
