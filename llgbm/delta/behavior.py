"""What adapted models do at chosen tokens: hidden states and predictions, from one forward of K adapters.

Training takes its targets from here and the delta engine its trajectories and top-k logits, so the two are the same.

Shapes: K adapters, N rows of T tokens (N a multiple of K), n chosen tokens in row-major order, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llgbm.dataset import at_tokens
from llgbm.functional_lora import ChunkedLogits, FunctionalLoRA, Logits
from llgbm.lora.factors import LoRAFactors


@dataclass
class Predictions:
    """Log-probabilities at n tokens: the whole vocabulary, perhaps by chunks, or the k most likely tokens when `tokens` is set."""

    log_probs: Float[Tensor, "n V"] | ChunkedLogits
    tokens: Int[Tensor, "n V"] | None = None


@dataclass
class Behavior:
    """States and predictions at n chosen tokens; what was not asked for is None."""

    predictions: Predictions | None
    states: dict[int, Tensor] | None
    """Layer -> [n, D], float32."""

    def select(self, index: Tensor) -> "Behavior":
        """Those of some tokens, in the order of the index."""
        predictions, states = self.predictions, self.states
        if predictions is not None:
            tokens = predictions.tokens
            log_probs = predictions.log_probs
            chosen = log_probs.select(index) if isinstance(log_probs, ChunkedLogits) else log_probs[index]
            predictions = Predictions(chosen, None if tokens is None else tokens[index])
        return Behavior(predictions, None if states is None else {layer: s[index] for layer, s in states.items()})

    @staticmethod
    def join(parts: Sequence["Behavior"]) -> "Behavior":
        """Behavior at consecutive tokens; all parts hold the same kinds."""
        predictions, states = None, None
        if parts[0].predictions is not None:
            found = [p.predictions for p in parts if p.predictions is not None]
            tokens = [p.tokens for p in found if p.tokens is not None]
            predictions = Predictions(_joined([p.log_probs for p in found]), torch.cat(tokens) if tokens else None)
        if parts[0].states is not None:
            states = {layer: torch.cat([p.states[layer] for p in parts if p.states is not None]) for layer in parts[0].states}
        return Behavior(predictions, states)


def observe(
    functional: FunctionalLoRA,
    factors: LoRAFactors | None,
    input_ids: Int[Tensor, "N T"],
    at: Bool[Tensor, "N T"],
    *,
    layers: Sequence[int] = (),
    predictions: bool = False,
    top_k: int = 0,
) -> Behavior:
    """One forward of K adapters (or the base) and what it shows at chosen tokens.

    Args:
        functional: The wrapped base.
        factors: K adapters; row k * b + j belongs to adapter k. None is the base.
        input_ids: Token ids, padded on the right.
        at: The chosen tokens.
        layers: Hidden states to keep, numbered as in `FunctionalLoRA`.
        predictions: Whether to keep what is predicted to come after each chosen token.
        top_k: Keep only that many most likely tokens, with their log-probabilities over the whole vocabulary; 0 keeps all.
    """
    logits_at = at if predictions else None
    out = functional(factors, input_ids, hidden_layers=layers, hidden_at=at, logits_at=logits_at, chunked=True)
    states = {layer: at_tokens(out.hidden[layer], at).float() for layer in layers} if layers else None
    return Behavior(None if out.any_logits is None else top_predictions(out.any_logits, top_k), states)


def top_predictions(logits: Logits, top_k: int) -> Predictions:
    """Log-probabilities over the vocabulary, or of its `top_k` most likely tokens."""
    if isinstance(logits, ChunkedLogits):
        if not top_k:
            return Predictions(logits.log_softmax())
        parts = [top_predictions(logits[rows], top_k) for rows in logits.chunks()]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return Predictions(_joined([part.log_probs for part in parts]), torch.cat(tokens) if tokens else None)
    log_probs = logits.float().log_softmax(-1)
    if not 0 < top_k < log_probs.shape[-1]:
        return Predictions(log_probs)
    values, tokens = log_probs.topk(top_k, dim=-1)
    return Predictions(values, tokens)


def _joined(parts: Sequence[Tensor | ChunkedLogits]) -> Tensor | ChunkedLogits:
    """Log-probabilities at consecutive tokens; by chunks where all parts are."""
    chunked = [part for part in parts if isinstance(part, ChunkedLogits)]
    if len(chunked) == len(parts):
        return ChunkedLogits.join(chunked)
    return torch.cat([part[:] for part in parts])
