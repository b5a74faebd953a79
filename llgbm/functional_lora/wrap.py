"""K adapters through one frozen base in one forward: a shared base GEMM plus two small batched ones per module.

The base is copied in structure only: the copy shares every parameter and buffer, its target modules become slots, and
`torch.func.functional_call` puts the factors of K adapters into the slots for one call. The model object that was
given is never touched. B A is never formed and factors are never repeated per token or sequence.

Shapes: K adapters, b sequences each, N = K * b rows of T tokens, D hidden size, r rank, V vocabulary.
"""

import contextlib
import copy
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.pytorch_utils import Conv1D
from transformers.utils import output_capturing

from llgbm.errors import InputError
from llgbm.functional_lora.families import check_family, counts_positions_itself
from llgbm.functional_lora.fused import SelectedHead, Slot
from llgbm.functional_lora.head import LARGE_VOCABULARY, LOGITS_BYTES, ChunkedLogits, Logits, head_only
from llgbm.functional_lora.last_layer import COLUMNS, chosen_tokens, narrow_last_layer
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.targets import linear_shape, maps_each_token
from llgbm.memory import MemoryPlan
from llgbm.transfer import to_device

KEEPS_CHOSEN_LAYERS = hasattr(output_capturing, "resolve_hidden_states_indices")
"""Whether transformers keeps the hidden states of a list of layers alone, as it numbers them elsewhere; 5.17 numbered them otherwise."""


@dataclass
class FunctionalOutput:
    """What one forward was asked for."""

    hidden: dict[int, Tensor] = field(default_factory=dict)
    """Requested layer number -> hidden states, [N, T, D]."""
    logits: Float[Tensor, "n V"] | None = None
    """One row per True of `logits_at`, row-major; None when not asked for, or when they come by chunks."""
    chunked: ChunkedLogits | None = None
    """Instead of `logits` where these would be large."""
    past_key_values: Any = None
    """The model's key-value cache when `use_cache`; None also where the family keeps none by that name (RWKV, GPT)."""

    @property
    def any_logits(self) -> Logits | None:
        """Whichever of `logits` and `chunked` there is."""
        return self.logits if self.chunked is None else self.chunked


class FunctionalLoRA:
    """A base wrapped once, called with any adapters.

    Args:
        model: A causal LM of transformers, or any subclass. Not modified. Parameters that require gradients are
            frozen in the copy (same storage), so the base is never trained through it.
        module_names: Full names of the `nn.Linear` or `Conv1D` modules that adapters may touch.
        memory_gb: GiB the process may take where the base is; None takes what is free.

    Raises:
        InputError: A name is not a module of the model, or not one that takes LoRA factors; or the model's family works
            in a way that functional LoRA cannot follow.
    """

    def __init__(self, model: PreTrainedModel, module_names: Iterable[str], memory_gb: float | None = None) -> None:
        check_family(model)
        self.model: PreTrainedModel = _structural_copy(model).eval()
        self.memory = MemoryPlan(model.device, memory_gb)
        self.measured: dict[tuple[int, bool, bool], int] = {}
        """What `row_bytes` has measured."""
        self.recomputes = False
        """Whether the layers' activations are computed again in the backward pass (`recompute_layers`)."""
        self.shares_forwards = False
        """Whether every forward is one of several processes together (`shard_layers`), which then all make the same ones."""
        self.shapes: dict[str, tuple[int, int]] = {}
        self.fan_in_fan_out = False
        self._slots: dict[str, Slot] = {}
        self._last_block = narrow_last_layer(self.model, self.n_layers)
        for name in module_names:
            linear = _linear(self.model, name)
            self.shapes[name] = linear_shape(linear)
            self.fan_in_fan_out |= isinstance(linear, Conv1D)
            self._slots[name] = Slot(linear)
            self.model.set_submodule(name, self._slots[name])
        head = self.model.get_output_embeddings()
        if head is None:
            raise InputError(f"the base, a {type(model).__name__}, has no output embedding; use a causal language model")
        self._head = next(name for name, module in self.model.named_modules() if module is head)
        self._selected = SelectedHead(head)
        self.model.set_submodule(self._head, self._selected)
        takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        self._takes_positions = takes_positions and not counts_positions_itself(self.model)

    @property
    def module_names(self) -> tuple[str, ...]:
        """Modules that have a slot."""
        return tuple(self.shapes)

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.model.device

    @property
    def n_layers(self) -> int:
        """Number of transformer layers; hidden states are numbered 0 (embeddings) to n_layers."""
        return self.model.config.get_text_config().num_hidden_layers

    @cached_property
    def vocabulary(self) -> int:
        """Number of logits of a token."""
        return self.head_weight.shape[0]

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """The output embedding's."""
        return self._selected.weight

    @cached_property
    def goes_on_from_cache(self) -> bool:
        """Whether the base keeps keys and values of all tokens alike, so that any rows can go on from those of others."""
        with torch.no_grad():
            cache = self(None, torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=True).past_key_values
        return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)

    @cached_property
    def _shell(self) -> nn.Module | None:
        """The model without layers; None where the head cannot be run apart from them, so that it gives the same logits."""
        shell = None if isinstance(self._selected.head, Slot) else head_only(self.model, self._head)
        if shell is None:
            return None
        ids = torch.arange(min(3, self.vocabulary), device=self.device)[None]
        at = torch.ones_like(ids, dtype=torch.bool)
        with torch.no_grad():
            whole = self(None, ids, logits_at=at).logits
            assert whole is not None
            with self._selected.keeping():
                self(None, ids, logits_at=at)
            if self._selected.kept is None:  # the model does not call its head as a module
                return None
            try:
                apart = self._head_logits(shell, self._selected.take())
            except (AttributeError, TypeError, KeyError, IndexError, ValueError, RuntimeError):
                return None
        near = 64 * torch.finfo(whole.dtype).eps * whole.float().abs().max()
        return shell if apart.shape == whole.shape and bool((apart - whole).abs().max() <= near) else None

    def _head_logits(self, shell: nn.Module, states: Float[Tensor, "m D"]) -> Float[Tensor, "m V"]:
        """The head on given states, and all that the model does to logits afterwards."""
        self._selected.given = states
        try:
            return shell(torch.zeros(1, 1, dtype=torch.long, device=states.device), use_cache=False).logits
        finally:
            self._selected.given = None

    def __call__(
        self,
        factors: LoRAFactors | None,
        input_ids: Int[Tensor, "N T"],
        attention_mask: Tensor | None = None,
        *,
        hidden_layers: Sequence[int] = (),
        hidden_at: Bool[Tensor, "N T"] | None = None,
        logits_at: Bool[Tensor, "N T"] | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        chunked: bool = False,
    ) -> FunctionalOutput:
        """One forward of K adapters, or of the base alone.

        Args:
            factors: K adapters; row k * b + j belongs to adapter k. None runs the base. Modules absent from it run plain.
            input_ids: Token ids, padded on either side.
            attention_mask: [N, past + T], 1 at real tokens. Positions are counted from it, so the padding side does not matter. None
                means no padding, or padding on the right alone: no real token sees that, and attention without a mask is faster.
            hidden_layers: Layer numbers as in transformers' `hidden_states`: 0 is the embeddings, -1 the last, after the norm.
            hidden_at: Positions at which the last layer is looked at; elsewhere its hidden state is left unfinished. None means all.
            logits_at: Positions whose logits are wanted; selected before the output embedding. None skips it. Both may be given on the
                host, which then waits for no device.
            past_key_values: Cache of an earlier call with `use_cache`.
            use_cache: Return the cache.
            chunked: Large logits may come as `ChunkedLogits`, computed when they are looked at.

        Raises:
            InputError: Rows are no multiple of K, a module has no slot or another shape, a layer does not exist.
        """
        substituted = self._substituted(factors, len(input_ids))
        arguments: dict[str, Any] = {"attention_mask": attention_mask, "past_key_values": past_key_values, "use_cache": use_cache}
        if self._takes_positions:
            arguments["position_ids"] = _positions(input_ids, attention_mask, past_key_values)
        layers = {layer: self._layer(layer) for layer in hidden_layers}
        rows, columns = chosen_tokens(logits_at, self._looked_at(self.n_layers in layers.values(), hidden_at, logits_at))
        apart = None
        if rows is not None:
            substituted[f"{self._head}.rows"] = to_device(rows, self.device)
            apart = self._shell if chunked and self.is_large(len(rows)) else None
        if columns is not None:
            substituted[f"{self._last_block}.{COLUMNS}"] = to_device(columns, self.device)
        if layers:
            arguments["output_hidden_states"] = sorted(set(layers.values())) if KEEPS_CHOSEN_LAYERS else True
        with contextlib.nullcontext() if apart is None else self._selected.keeping():
            output = torch.func.functional_call(self.model, substituted, (input_ids,), arguments, tie_weights=False)
        return FunctionalOutput(
            {layer: output.hidden_states[index] for layer, index in layers.items()},
            None if logits_at is None or apart is not None else output.logits,
            None if apart is None else ChunkedLogits(self._selected.take(), partial(self._head_logits, apart), self.tokens_of_chunk),
            getattr(output, "past_key_values", None) if use_cache else None,
        )

    def by_chunks(self, n_tokens: int) -> bool:
        """Whether the logits of so many tokens come by chunks when they may."""
        return self.is_large(n_tokens) and self._shell is not None

    def is_large(self, n_tokens: int) -> bool:
        """Whether the logits of so many tokens had better come by chunks."""
        return self.vocabulary > LARGE_VOCABULARY or 4 * n_tokens * self.vocabulary > LOGITS_BYTES

    def prepare_head(self) -> None:
        """See now whether the head can be run apart, which else is tried when it is first wanted."""
        _ = self._shell

    @property
    def tokens_of_chunk(self) -> int:
        """Tokens whose logits are there at once, where these come by chunks."""
        return max(1, LOGITS_BYTES // (4 * self.vocabulary))

    def _substituted(self, factors: LoRAFactors | None, n_rows: int) -> dict[str, Tensor]:
        """Buffer name -> tensor for one call: A, and B with the scaling folded in, where the module is, in the base's dtype."""
        if factors is None:
            return {}
        if factors.n_adapters == 0 or n_rows % factors.n_adapters:
            raise InputError(f"{n_rows} sequences for {factors.n_adapters} adapters; give every adapter the same number of sequences")
        dtype = self.model.dtype
        buffers = {}
        for name, shape in factors.shapes.items():
            if self.shapes.get(name) != shape:
                raise InputError(
                    f"adapter module {name} has (d_in, d_out) = {shape}, the wrapped base has {self.shapes.get(name, 'no slot there')}; "
                    "use adapters of this base and name all their modules when wrapping it"
                )
            slot = f"{name}.head" if name == self._head else name
            device = self._slots[name].weight.device
            buffers[f"{slot}.lora_a"] = factors.a[name].to(device, dtype)
            b, scaling = factors.b[name].to(device), factors.scaling[name].to(device)
            buffers[f"{slot}.lora_b"] = (b.mT * scaling[:, None, None]).to(dtype).contiguous()
        return buffers

    def _looked_at(self, last_layer: bool, hidden_at: Tensor | None, logits_at: Tensor | None) -> Tensor | None:
        """Tokens whose last state the caller or the logits look at; None where the last layer cannot or must not skip any."""
        wanted = [at for at in (hidden_at if last_layer else None, logits_at) if at is not None]
        if self._last_block is None or not wanted or (last_layer and hidden_at is None):
            return None
        return wanted[0] if len(wanted) == 1 or wanted[0] is wanted[1] else wanted[0] | wanted[1].to(wanted[0].device)

    def _layer(self, layer: int) -> int:
        if not -self.n_layers - 1 <= layer <= self.n_layers:
            raise InputError(f"layer {layer} does not exist; this base has hidden states 0 to {self.n_layers}, or -1 for the last")
        return layer % (self.n_layers + 1)


def _positions(input_ids: Int[Tensor, "N T"], attention_mask: Tensor | None, past_key_values: Any) -> Int[Tensor, "N T"]:
    """Each token's position among its row's real ones."""
    if attention_mask is not None:
        return (attention_mask.long().cumsum(1) - 1).clamp_min(0)[:, -input_ids.shape[1] :]
    past = past_key_values.get_seq_length() if past_key_values is not None else 0
    return torch.arange(past, past + input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)


def _structural_copy(model: PreTrainedModel) -> PreTrainedModel:
    """New module objects around the very same parameters and buffers; parameters that train become frozen views of themselves."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False) if parameter.requires_grad else parameter
    return copy.deepcopy(model, memo)


def _linear(model: nn.Module, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the base has no module {name}; name modules as in its named_modules()") from error
    if not maps_each_token(module):
        raise InputError(f"module {name} is a {type(module).__name__}, not nn.Linear or Conv1D; LoRA factors need a linear module")
    return module
