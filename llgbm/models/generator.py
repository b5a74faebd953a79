"""The generator: a hypernetwork from a set of embedded texts to LoRA factors for every target module.

Letters: K tasks, N vectors per task (one or more for each text), E embedding width, H trunk width, L layers, r rank.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llgbm.lora.factors import LoRAFactors
from llgbm.lora.stored import StoredFactors
from llgbm.models.common import teacher_sums
from llgbm.models.encoder import TextEncoder
from llgbm.models.reader import SIZES
from llgbm.models.ridge import FOLDS, fit_ridge
from llgbm.models.writer import AdapterWriter, GeneratorSpec


@dataclass(frozen=True)
class ModuleGroup:
    """Modules of one kind and shape in different layers; they share a head."""

    key: str
    names: tuple[str, ...]
    layers: tuple[int, ...]
    d_in: int
    d_out: int


def group_modules(shapes: dict[str, tuple[int, int]]) -> tuple[list[ModuleGroup], int]:
    """Group modules by name without the layer number, and by shape; also the number of layers.

    The layer is the first purely numeric part of a name; modules without one share an extra layer of their own.
    """
    split = {name: _split_layer(name) for name in shapes}
    numbers = sorted({layer for _, layer in split.values()})
    members: dict[tuple, list[tuple[int, str]]] = {}
    for name, (kind, layer) in split.items():
        members.setdefault((kind, *shapes[name]), []).append((numbers.index(layer), name))
    groups = []
    for (kind, d_in, d_out), found in sorted(members.items()):
        layers, names = zip(*sorted(found), strict=True)
        groups.append(ModuleGroup(f"{kind}:{d_in}x{d_out}".replace(".", "/"), names, layers, d_in, d_out))
    return groups, len(numbers)


class Head(nn.Module):
    """Writes A and B of one group of modules: a learned constant A, and deviations read from the trunk.

    Each rank reads a code of its own from the trunk; one linear map, shared by ranks and layers, writes from a code a
    row of A and a column of B. Its B half starts at zero, so a new generator writes the zero adapter. Outputs are in
    units of the teachers' RMS.
    """

    rms_a: Tensor
    rms_b: Tensor
    layers: Tensor

    mean_b: Tensor
    directions: Tensor

    def __init__(self, group: ModuleGroup, rank: int, hidden: int, code: int, ridge: int = 0) -> None:
        super().__init__()
        self.group, self.rank = group, rank
        n = len(group.names)
        self.code = nn.Linear(hidden, rank * code)
        self.write_a = nn.Linear(code, group.d_in, bias=False)
        self.write_b = nn.Linear(code, group.d_out, bias=False)
        nn.init.normal_(self.write_a.weight, std=0.1 * code**-0.5)
        nn.init.zeros_(self.write_b.weight)
        self.constant_a = nn.Parameter(torch.randn(n, rank, group.d_in))
        self.register_buffer("rms_a", torch.ones(n))
        self.register_buffer("rms_b", torch.ones(n))
        self.register_buffer("layers", torch.tensor(group.layers), persistent=False)
        if ridge:
            self.register_buffer("mean_b", torch.zeros(n, group.d_out, rank))
            self.register_buffer("directions", torch.zeros(ridge, n, group.d_out, rank))

    def forward(self, trunk: Float[Tensor, "K L H"], start: tuple[Tensor, Tensor | float] | None = None) -> tuple[Tensor, Tensor]:
        """A [K, layers, r, d_in] and B [K, layers, d_out, r] in float32.

        `start` are coordinates [K, Q] along the directions of B, and the weight of what the trunk adds.
        """
        codes = self.code(trunk[:, self.layers]).unflatten(-1, (self.rank, -1))
        a = (self.constant_a + self.write_a(codes).float()) * self.rms_a[:, None, None]
        b = (self.write_b(codes).float() * self.rms_b[:, None, None]).transpose(-1, -2)
        if start is not None:
            coordinates, trust = start
            b = trust * b + self.mean_b + torch.tensordot(coordinates, self.directions, 1)
        return a, b


class LoRAGenerator(AdapterWriter):
    """Reads the embedded texts of K tasks, writes one LoRA adapter for each task."""

    trust: Tensor
    ridge_center: Tensor
    ridge_map: Tensor
    fold_maps: Tensor

    def __init__(self, spec: GeneratorSpec, encoder: TextEncoder | None = None) -> None:
        super().__init__(spec, encoder)
        size = SIZES[spec.size]
        groups, n_layers = group_modules(spec.shapes)
        self.layer = nn.Embedding(n_layers, size.hidden)
        self.front, self.trunk = self.new_front(), self.new_trunk()
        self.heads = nn.ModuleList(Head(group, spec.rank, size.hidden, size.code, spec.ridge) for group in groups)
        if spec.ridge:
            self.weigh = nn.Linear(spec.embedding_dim, 1, bias=False)
            nn.init.zeros_(self.weigh.weight)
            self.register_buffer("trust", torch.ones(()))
            self.register_buffer("ridge_center", torch.zeros(spec.embedding_dim))
            self.register_buffer("ridge_map", torch.zeros(spec.embedding_dim, spec.ridge))
            self.register_buffer("fold_maps", torch.zeros(FOLDS + 1, spec.embedding_dim, spec.ridge), persistent=False)

    def forward(
        self,
        embeddings: Float[Tensor, "K N E"],
        mask: Bool[Tensor, "K N"],
        again: tuple[Tensor, Tensor] | None = None,
        folds: Int[Tensor, " K"] | None = None,
    ) -> Any:
        """One adapter per row; masked vectors do not count. Factors are float32.

        With `folds`, a start by ridge regression is that of the regression that never saw the fold's tasks.

        With `again`, other sets of vectors and their mask, returns (factors, what was read [K S H], what is read again [M S H]):
        one call, so that data-parallel training sees every parameter's use.
        """
        read = self.front(embeddings, mask)
        factors = self.write(read, self.start(embeddings, mask, folds))
        return factors if again is None else (factors, read, self.front(*again))

    def start(
        self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"], folds: Int[Tensor, " K"] | None
    ) -> tuple[Float[Tensor, "K Q"], Tensor | float] | None:
        """Coordinates along the teachers' B that the ridge regression says, and how far to trust the network; None without a ridge.

        The regression reads the mean vector. Training weighs words, so that what is no part of the wish counts less.
        """
        if not self.spec.ridge:
            return None
        trust = self.trust if folds is None else 1.0
        weights = (trust * self.weigh(embeddings)).masked_fill(~mask[..., None], -torch.inf).softmax(1)
        centered = (embeddings * weights).sum(1) - self.ridge_center
        if folds is None:
            return centered @ self.ridge_map, trust
        return torch.einsum("ke,keq->kq", centered, self.fold_maps[folds]), trust

    def write(self, read: Float[Tensor, "K S H"], start: tuple[Tensor, Tensor | float] | None = None) -> LoRAFactors:
        """One adapter for each row that was read."""
        trunk = self.trunk(read[:, :, None] + self.layer.weight)
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        for head in self.heads:
            assert isinstance(head, Head)
            all_a, all_b = head(trunk, start)
            for i, name in enumerate(head.group.names):
                a[name], b[name] = all_a[:, i], all_b[:, i]
        k = len(read)
        scaling = read.new_full((k,), self.spec.alpha / self.spec.rank, dtype=torch.float32)
        order = self.spec.shapes
        return LoRAFactors(
            a={name: a[name] for name in order},
            b={name: b[name] for name in order},
            scaling=dict.fromkeys(order, scaling),
            ranks=dict.fromkeys(order, (self.spec.rank,) * k),
        )

    @torch.no_grad()
    def fit_scale(self, teachers: LoRAFactors | StoredFactors) -> None:
        """Take output scales and the constant A from the teachers: per-module RMS, and `common_a` of theirs.

        Modules a teacher does not target count as absent.
        """
        sums = teacher_sums(teachers, self.spec.shapes, self.spec.rank, self.spec.alpha / self.spec.rank)
        for head in self.heads:
            assert isinstance(head, Head)
            for i, found in ((i, sums[name]) for i, name in enumerate(head.group.names) if sums[name].count):
                head.rms_a[i], head.rms_b[i] = max(found.mean_square_a**0.5, 1e-8), max(found.mean_square_b**0.5, 1e-8)
                head.constant_a[i] = found.common_a().to(head.rms_a) / head.rms_a[i]

    @torch.no_grad()
    def fit_start(
        self, teachers: LoRAFactors | StoredFactors, texts: Sequence[Float[Tensor, "_ E"]], folds: Sequence[int], shrinkage: float
    ) -> None:
        """Fit the ridge regression, once scales and the constant A are; see `fit_ridge` for the arguments."""
        constant = {}
        for head in self.heads:
            assert isinstance(head, Head)
            constant |= {name: head.constant_a[i] * head.rms_a[i] for i, name in enumerate(head.group.names)}
        fit = fit_ridge(teachers, constant, self.spec.alpha / self.spec.rank, texts, folds, self.spec.ridge, shrinkage)
        self.ridge_center.copy_(fit.center)
        self.fold_maps.copy_(fit.maps)
        self.ridge_map.copy_(fit.maps[-1])
        for head in self.heads:
            assert isinstance(head, Head)
            for i, name in enumerate(head.group.names):
                head.mean_b[i], head.directions[:, i] = fit.mean[name], fit.directions[name]


def _split_layer(name: str) -> tuple[str, int]:
    """("model.layers.*.self_attn.q_proj", 3) of "model.layers.3.self_attn.q_proj"; layer -1 without a number."""
    match = re.search(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", name)
    if match is None:
        return name, -1
    return name[: match.start()] + "*" + name[match.end() :], int(match.group())
