"""One step of each stage, written so that it runs on paper: the stages' own parts, without what asks for values of tensors.

Letters: K adapters, b rows of each, T tokens, P probes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from llgbm.config import ExperimentConfig
from llgbm.functional_lora import FunctionalLoRA, by_token
from llgbm.functional_lora.head import ChunkedLogits
from llgbm.lora.distance import product_distance_by_module
from llgbm.lora.factors import LoRAFactors
from llgbm.models.attribute_generator import AttributeGenerator, usual_readers
from llgbm.models.encoder_names import models_beside_hashes
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec

EMBEDDING_DIM, VECTORS = 512, 8
"""Of what a generator reads: width, and vectors of a condition. They hardly weigh beside what it writes."""


@dataclass(frozen=True)
class Rows:
    """Rows of a forward: K adapters with b rows each, their length, and how many tokens of each are answers."""

    adapters: int
    each: int
    tokens: int
    answers: int

    @property
    def count(self) -> int:
        """All of them."""
        return self.adapters * self.each

    def batch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids, all zero, and the mask of real tokens: a batch of examples has padding."""
        ids = torch.zeros(self.count, self.tokens, dtype=torch.long, device=device)
        mask = torch.ones_like(ids)
        mask[0, 0] = 0
        return ids, mask


def share_of_layers(functional: FunctionalLoRA, rows: Rows) -> float:
    """What is left of a forward where the last layer is computed at answers alone, which on paper nobody can choose."""
    return 1 - (1 - rows.answers / rows.tokens) / functional.n_layers


class Teachers:
    """Adapters in training, as `zoo.trainer` trains them."""

    def __init__(self, functional: FunctionalLoRA, config: ExperimentConfig, count: int) -> None:
        self.functional = functional
        self.factors = LoRAFactors.zeros(functional.shapes, _rank(config), config.lora.alpha, count).to(device=functional.device)
        parameters = [tensor.requires_grad_() for tensor in self.factors.tensors()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)

    def micro_batch(self, rows: Rows) -> None:
        """Forward and backward of the first adapters on some rows."""
        part = self.factors.select(range(rows.adapters)).map(lambda tensor: tensor.detach().requires_grad_())
        loss = answer_nll(self.functional, part, rows).sum()
        torch.autograd.grad(loss, part.tensors())

    def update(self) -> None:
        """One step of the optimizer."""
        for parameter in self.factors.tensors():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()


class Generator:
    """A generator in training, compared with its teachers by what weighs: products, and predictions at answers."""

    def __init__(self, functional: FunctionalLoRA, config: ExperimentConfig, levels: Sequence[int]) -> None:
        self.functional, self.config = functional, config
        self.network = _network(functional, config, levels)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)

    def micro_batch(self, rows: Rows) -> None:
        """Write K adapters, run them forward and backward, to the generator's parameters."""
        factors, loss = self._written(rows.adapters)
        objective = self.config.objective
        if objective.product:
            teacher = factors.map(torch.Tensor.detach)
            loss = loss + sum(distance.sum() for distance, _ in product_distance_by_module(factors, teacher).values())
        if reads_base(self.config):
            layers = tuple(range(self.functional.n_layers + 1)) if objective.trajectory else (-1,)
            loss = loss + answer_nll(self.functional, factors, rows, layers).sum()
        loss.backward()

    def _written(self, k: int) -> tuple[LoRAFactors, Tensor]:
        """K adapters, and what else of the network's output is learned from."""
        vectors, mask = torch.zeros(k, VECTORS, self.network.spec.embedding_dim), torch.ones(k, VECTORS, dtype=torch.bool)
        if isinstance(self.network, LoRAGenerator):
            return self.network(vectors, mask), torch.zeros(())
        readings = self.config.training.readings
        factors, said, more = self.network(
            vectors, mask, (vectors.repeat(readings, 1, 1), mask.repeat(readings, 1)), torch.zeros(k, sum(self.network.counts))
        )
        return factors, said.sum() + more.sum()

    def update(self) -> None:
        """One step of the optimizer."""
        for parameter in self.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()


def _network(functional: FunctionalLoRA, config: ExperimentConfig, levels: Sequence[int]) -> LoRAGenerator | AttributeGenerator:
    """The network that would be trained, of tasks whose attributes have so many levels."""
    generator, beside = config.generator, models_beside_hashes(config.generator.encoder)
    spec = GeneratorSpec(functional.shapes, _rank(config), config.lora.alpha, EMBEDDING_DIM, generator.size, generator.slots)
    if not (generator.attributes and levels):
        return LoRAGenerator(spec)
    attributes = {str(i): [str(j) for j in range(count)] for i, count in enumerate(levels)}
    readers = usual_readers(bool(beside)) if generator.readers is None else generator.readers
    widths = [EMBEDDING_DIM] * len(beside)
    return AttributeGenerator(
        replace(spec, embedding_dim=EMBEDDING_DIM + sum(widths), attributes=attributes, token_widths=widths, readers=readers)
    )


def _rank(config: ExperimentConfig) -> int:
    """Of the largest teacher, and of what a generator writes."""
    return max(config.zoo.ranks or [config.lora.rank])


def reads_base(config: ExperimentConfig) -> bool:
    """Whether training runs adapters through the base, and does not only compare weights."""
    objective = config.objective
    return any((objective.trajectory, objective.kl, objective.sft, objective.practice, objective.context))


def answer_nll(functional: FunctionalLoRA, factors: LoRAFactors | None, rows: Rows, layers: tuple[int, ...] = (-1,)) -> Tensor:
    """Negative log-likelihood of the last tokens of every row, one value for each."""
    hidden = functional(factors, *rows.batch(functional.device), hidden_layers=layers).hidden[layers[-1]]
    states = hidden[:, -rows.answers :].flatten(0, 1)
    weight = functional.head_weight
    logits = ChunkedLogits(states, lambda some: F.linear(some, weight), functional.tokens_of_chunk)
    gold = torch.zeros(len(states), dtype=torch.long, device=states.device)
    return by_token(lambda own, right: F.cross_entropy(own.float(), right, reduction="none"), logits, gold)


def forward(functional: FunctionalLoRA, rows: Rows, rank: int) -> None:
    """One forward of K adapters without gradients; where no token is an answer, of hidden states alone."""
    factors = LoRAFactors.zeros(functional.shapes, rank, 1.0, rows.adapters).to(device=functional.device)
    with torch.no_grad():
        if rows.answers:
            answer_nll(functional, factors, rows)
        else:
            functional(factors, *rows.batch(functional.device), hidden_layers=(-1,))
