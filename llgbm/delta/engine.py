"""The delta engine: hidden states of K adapted models minus those of the base, on the same probe tokens.

Shapes: K adapters, P probes, T tokens, L layers kept, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llgbm.config import DeltaConfig, ExperimentConfig
from llgbm.dataset import NO_LABEL, TokenBatch, at_tokens, encode_texts
from llgbm.delta.behavior import Behavior, observe
from llgbm.delta.cache import delta_key
from llgbm.errors import InputError
from llgbm.files import hash_json
from llgbm.framing import Framing, context_length
from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.measure import rows_at_once
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter, target_shapes
from llgbm.probes import ProbeSet, load_probes
from llgbm.transfer import to_device
from llgbm.zoo.base import Base, load_configured
from llgbm.zoo.suite import Example

COMFORTABLE_BYTES = {"cpu": 16 * 2**20, "cuda": 2**30}
"""Hidden states of one forward by kind of device, if they fit. Fixed, not read off the machine: the adapters that share a forward
are then the same everywhere, and so are the bits. On the CPU more is slower, activations leave the caches: 120 micro teachers take
0.71 s by 19, 0.90 s by 76."""


@dataclass(frozen=True)
class DeltaOptions:
    """What is kept of the hidden states."""

    layers: int | tuple[int, ...] | Literal["all"] = -1
    """Layers as in transformers' hidden_states: 0 the embeddings, -1 the last, after the norm. One, several or all."""
    tokens: int | Literal["mean", "response"] = -1
    """A real token by number (-1 the last), the mean over real tokens, or the mean over response tokens."""
    aggregation: str = "mean"
    """mean, max, concat or none, over probes."""
    max_length: int = 256
    """Longer probes are cut to this many tokens (see `DeltaEngine.cut_probes`), with responses refused instead."""

    @classmethod
    def from_config(cls, delta: DeltaConfig, max_length: int) -> "DeltaOptions":
        """Options as a config has them."""
        return cls(delta.layer_idx, delta.token_idx, delta.aggregation, max_length)


class DeltaEngine:
    """One base and one probe set: base states are computed once, adapters many at a time.

    Args:
        base: The frozen base.
        probes: On what it is compared.
        options: What is kept.
        shapes: Modules that adapters may touch; by default every linear module but the head.
        memory_gb: GiB the process may take where the base is; None takes what is free. Adapters that share a forward are at most as many
            as `COMFORTABLE_BYTES` allows.

    A sum's rounding depends on the shape of the product it is part of. A delta is therefore the difference of two forwards of
    one shape: K adapters together, and the base as often. What an adapter does not change is then exactly zero, and an
    adapter that changes next to nothing is not given a direction by rounding.

    `cut_probes` names the probes that lost their end to `options.max_length`, with their length in tokens.

    Raises:
        InputError: A probe does not fit the base's context, a layer or token does not exist, response tokens are asked
            for but there are no responses, or the aggregation is unknown.
    """

    def __init__(
        self,
        base: Base,
        probes: ProbeSet,
        options: DeltaOptions | None = None,
        shapes: Mapping[str, tuple[int, int]] | None = None,
        memory_gb: float | None = None,
    ) -> None:
        self.base, self.probes, self.options = base, probes, options or DeltaOptions()
        self.functional = FunctionalLoRA(base.model, shapes or target_shapes(base.model, "all-linear"), memory_gb)
        batch, self.cut_probes = encode_probes(base, probes, self.options)
        self._tokens_hash = hash_json([ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)])
        self.batch = batch
        layers = self.options.layers
        wanted = range(self.functional.n_layers + 1) if layers == "all" else (layers,) if isinstance(layers, int) else layers
        self.layers: tuple[int, ...] = tuple(wanted)
        rows, tokens = self.batch.input_ids.shape
        self.adapters_at_once = adapters_at_once(self.functional, rows, tokens, len(self.layers))
        self._bases: dict[int, Float[Tensor, "K L P D"]] = {}
        self.base_states = self._base(1)[0]

    @property
    def base_activation(self) -> Float[np.ndarray, "..."]:
        """The base's own states, kept and aggregated as a delta would be; float32."""
        states = torch.stack([aggregate(self.base_states[None, i], self.options.aggregation)[0] for i in range(len(self.layers))])
        return (states[0] if isinstance(self.options.layers, int) else states).cpu().numpy()

    @property
    def config(self) -> dict[str, Any]:
        """Everything but the adapter that decides a delta; a cache holds deltas of one such config."""
        return {
            "base": asdict(self.base.identity),
            "probes": self.probes.content_hash,
            "probe_tokens": self._tokens_hash,
            "probe_set": self.probes.name,
            "dtype": self.base.dtype,
            **asdict(self.options),
            "layers": list(self.options.layers) if isinstance(self.options.layers, tuple) else self.options.layers,
        }

    def key(self, adapter_hash: str) -> str:
        """SHA-256 over the config and an adapter's content: names this adapter's delta."""
        return delta_key(self.config, adapter_hash)

    @torch.no_grad()
    def deltas(self, factors: LoRAFactors) -> Float[np.ndarray, "K ..."]:
        """Deltas of K adapters, float32.

        [K, D] for one layer and mean or max; a layer axis follows K when several layers are kept; concat makes the
        last axis P * D, none puts an axis of P probes before D.

        Raises:
            InputError: No adapters were given.
        """
        _refuse_none(factors)
        work, count = lambda adapters, _: self._chunk(factors.select(adapters)), factors.n_adapters
        return np.concatenate(self.functional.memory.run("adapters' deltas", count, 1, self.adapters_at_once, work))

    @torch.no_grad()
    def behavior(self, factors: LoRAFactors | None, predictions: bool = True, top_k: int = 0, times: int = 1) -> Behavior:
        """States at the kept layers and predictions at each chosen token, not averaged, of K adapters one after another.

        Where response tokens are asked for, these are the positions that predict them, as in training: a trajectory.

        Args:
            factors: Of the adapters; None for the base itself.
            predictions: Whether predictions are wanted beside states.
            top_k: Tokens of which predictions are kept; 0 keeps all.
            times: How often the base: as often as there are adapters whose states its own are subtracted from.

        Raises:
            InputError: No adapters were given.
        """
        if factors is not None:
            _refuse_none(factors)
        parts = []
        for chunk in self._chunks(factors.n_adapters if factors else times):
            ids, at = to_device(self.batch.input_ids.repeat(len(chunk), 1), self.functional.device), self._observed.repeat(len(chunk), 1)
            part = factors.select(chunk).to(device=self.functional.device) if factors else None
            parts.append(observe(self.functional, part, ids, at, layers=self.layers, predictions=predictions, top_k=top_k))
        return Behavior.join(parts)

    @property
    def _observed(self) -> Bool[Tensor, "P T"]:
        return self.batch.predicts if self.options.tokens == "response" else chosen_tokens(self.batch, self.options.tokens)

    def _chunks(self, count: int) -> list[range]:
        return [range(start, min(start + self.adapters_at_once, count)) for start in range(0, count, self.adapters_at_once)]

    def _chunk(self, factors: LoRAFactors) -> np.ndarray:
        factors = factors.to(device=self.functional.device)
        difference = self._states(factors, factors.n_adapters) - self._base(factors.n_adapters)
        deltas = torch.stack([aggregate(difference[:, layer], self.options.aggregation) for layer in range(len(self.layers))], 1)
        return (deltas[:, 0] if isinstance(self.options.layers, int) else deltas).cpu().numpy()

    def _base(self, k: int) -> Float[Tensor, "K L P D"]:
        """The base's states, from a forward of the shape that K adapters have; two shapes are kept: a full chunk and what remains."""
        if k not in self._bases:
            self._bases = dict([*self._bases.items()][-1:]) | {k: self._states(None, k)}
        return self._bases[k]

    @torch.no_grad()
    def _states(self, factors: LoRAFactors | None, k: int) -> Float[Tensor, "K L P D"]:
        """The kept states of K adapted models, or of the base (K = 1)."""
        batch = self.batch.repeat(k)
        ids, looked_at = to_device(batch.input_ids, self.functional.device), chosen_tokens(batch, self.options.tokens)
        hidden = self.functional(factors, ids, hidden_layers=self.layers, hidden_at=looked_at).hidden
        states = torch.stack([token_states(hidden[layer], batch, self.options.tokens) for layer in self.layers])
        return states.unflatten(1, (k, -1)).transpose(0, 1)


def adapters_at_once(functional: FunctionalLoRA, rows: int, tokens: int, n_layers: int) -> int:
    """How many adapters share a forward: as many as make it faster and fit into memory.

    Args:
        functional: The wrapped base.
        rows: Probes.
        tokens: Length of the longest.
        n_layers: Layers that are kept.
    """
    hidden = functional.model.config.get_text_config().hidden_size
    widest = max((max(shape) for shape in functional.shapes.values()), default=hidden)
    each = 4 * rows * tokens * ((n_layers + 2) * hidden + 2 * widest)  # kept layers and the widest activation of every token, in float32
    comfortable = COMFORTABLE_BYTES.get(functional.memory.device.type, COMFORTABLE_BYTES["cpu"]) // each
    most = rows * max(1, comfortable)
    return max(1, rows_at_once(functional, "deltas", tokens, most, all_layers=n_layers > 1) // rows)


def encode_probes(base: Base, probes: ProbeSet, options: DeltaOptions) -> tuple[TokenBatch, dict[str, int]]:
    """The probes as tokens, with their responses where they have some; those that were cut -> their length.

    Raises:
        InputError: A probe does not fit the base's context, or response tokens are asked for but there are no responses.
    """
    context = context_length(base)
    if context is not None and options.max_length > context:
        raise InputError(f"probe.max_length is {options.max_length}, base {base.name} reads at most {context} tokens; lower it")
    if probes.responses is not None:
        examples = [Example(text, response) for text, response in zip(probes.texts, probes.responses, strict=True)]
        return Framing(base.tokenizer, "{input}", max_length=options.max_length).batch(examples), {}
    if options.tokens == "response":
        raise InputError(f"response tokens were asked for, but probe set {probes.name} has no responses; give probes with responses")
    lengths = {text: len(base.tokenizer(text, verbose=False).input_ids) for text in probes.texts}
    longest = max(lengths, key=lambda text: lengths[text])
    if context is not None and lengths[longest] > context:
        raise InputError(f"probe {longest[:40]!r} takes {lengths[longest]} tokens, base {base.name} reads at most {context}; shorten it")
    cut = {text: length for text, length in lengths.items() if length > options.max_length}
    return encode_texts(base.tokenizer, probes.texts, options.max_length), cut


def _refuse_none(factors: LoRAFactors) -> None:
    if not factors.n_adapters:
        raise InputError("no adapters to compare with the base; give at least one")


def token_states(hidden: Float[Tensor, "N T D"], batch: TokenBatch, tokens: int | str) -> Float[Tensor, "N D"]:
    """One float32 state per row: of a numbered real token, or the mean over real or response tokens; padding never counts.

    A device that holds the states is not waited for where the batch is on the host.

    Raises:
        InputError: A row has no such token.
    """
    chosen = chosen_tokens(batch, tokens)
    if isinstance(tokens, str):
        there = to_device(chosen, hidden.device)
        return (hidden.float() * there[..., None]).sum(1) / there.sum(1, keepdim=True)
    return at_tokens(hidden, chosen).float()


def chosen_tokens(batch: TokenBatch, tokens: int | str) -> Bool[Tensor, "N T"]:
    """True at the numbered real token (-1 the last), at every real token (`mean`), or at every response token.

    Raises:
        InputError: A row has no such token.
    """
    if isinstance(tokens, str):
        chosen = {"mean": batch.attention_mask.bool(), "response": batch.labels != NO_LABEL}[tokens]
        if not bool(chosen.any(1).all()):
            raise InputError(f"a probe has no {tokens} token; give probes with responses or choose other tokens")
        return chosen
    order = batch.attention_mask.cumsum(1)
    number = order[:, -1:] + tokens + 1 if tokens < 0 else torch.full_like(order[:, -1:], tokens + 1)
    at = (order == number) & batch.attention_mask.bool()
    if not bool(at.any(1).all()):
        raise InputError(f"delta.token_idx {tokens} is outside a probe of {int(order[:, -1].min())} tokens; choose one nearer the end")
    return at


def aggregate(deltas: Float[Tensor, "K P D"], how: str) -> Float[Tensor, "K ..."]:
    """Put P probes together: [K, D] for mean and max, [K, P * D] for concat, unchanged for none."""
    ways = {"mean": lambda x: x.mean(1), "max": lambda x: x.amax(1), "concat": lambda x: x.flatten(1), "none": lambda x: x}
    if how not in ways:
        raise InputError(f"delta.aggregation {how!r} is unknown; choose one of {', '.join(ways)}")
    return ways[how](deltas)


def make_engine(
    config: ExperimentConfig,
    layers: str | None = None,
    tokens: str | None = None,
    options: DeltaOptions | None = None,
    base: Base | None = None,
    probes: ProbeSet | None = None,
) -> DeltaEngine:
    """The engine a config describes: its base, its probes, and what it keeps.

    Args:
        config: Its sections model, probe and delta are read.
        layers: Instead of delta.layer_idx: a number, several with commas, or `all`.
        tokens: Instead of delta.token_idx: a number, `last`, `mean` or `response`.
        options: Instead of all that the config keeps.
        base: If it is loaded already; of the section model only the memory is read then.
        probes: If they are read already.

    Raises:
        InputError: Layers or tokens are none of these; see also `DeltaEngine`.
    """
    probes = probes or load_probes(config.probe.probe_type).at_most(config.probe.num_probes)
    base = base or load_configured(config.model)
    options = options or DeltaOptions.from_config(config.delta, config.probe.max_length)
    if layers is not None:
        options = replace(options, layers=_parsed_layers(layers))
    if tokens is not None:
        options = replace(options, tokens=_parsed_tokens(tokens))
    return DeltaEngine(base, probes, options, memory_gb=config.model.memory_gb)


def compute_base_activation(base: Base, probes: ProbeSet, options: DeltaOptions | None = None) -> Float[np.ndarray, "..."]:
    """The base's own states on the probes, kept and aggregated as a delta would be; float32."""
    return DeltaEngine(base, probes, options).base_activation


def compute_adapter_delta(
    base: Base, adapter_path: str | Path, probes: ProbeSet, options: DeltaOptions | None = None
) -> Float[np.ndarray, "..."]:
    """The delta of one PEFT adapter. For more than one, keep a `DeltaEngine` or call `compute_deltas`."""
    engine = DeltaEngine(base, probes, options)
    return engine.deltas(read_adapter(adapter_path, engine.functional.shapes))[0]


def _parsed_layers(text: str) -> int | tuple[int, ...] | Literal["all"]:
    if text == "all":
        return "all"
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"layers {text!r} are unknown; give a number, several with commas (0,2,-1), or all") from error
    return numbers[0] if len(numbers) == 1 else numbers


def _parsed_tokens(text: str) -> int | Literal["mean", "response"]:
    if text == "mean" or text == "response":
        return text
    try:
        return -1 if text == "last" else int(text)
    except ValueError as error:
        raise InputError(f"tokens {text!r} are unknown; give a number, last, mean or response") from error
