"""The generator: a hypernetwork from a set of embedded texts to LoRA factors for every target module.

Letters: K tasks, N vectors per task (one or more for each text), E embedding width, H trunk width, L layers, r rank.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from llgbm.artifacts import read_json, write_bytes, write_json
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.models.encoder import TextEncoder, build_encoder
from llgbm.zoo.base import Base

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Size:
    """Widths of one size preset."""

    hidden: int
    blocks: int
    code: int
    """Width of the code from which one rank's row of A and column of B are written."""


POOLING_HEADS = 16
SIZES = {"s": Size(256, 2, 64), "m": Size(512, 3, 128), "l": Size(768, 4, 192)}


@dataclass
class GeneratorSpec:
    """Everything `from_pretrained` needs to rebuild a generator and `generate` to use it."""

    shapes: dict[str, tuple[int, int]]
    """Module name -> (d_in, d_out)."""
    rank: int
    alpha: float
    """Every emitted module has `scaling = alpha / rank`."""
    embedding_dim: int
    size: str = "s"
    encoder: str = "hashing"
    encoder_id: str = ""
    """Content of the encoder the generator was trained with."""
    condition: str = "description"
    max_prompts: int = 8
    base_name: str = ""
    base_hash: str = ""
    fan_in_fan_out: bool = False
    trained_on: list[str] = field(default_factory=list)
    """Tasks whose teachers were training targets."""
    validated_on: list[str] = field(default_factory=list)
    """Tasks held back to choose the checkpoint."""

    def emitted(self) -> int:
        """Numbers in one emitted adapter."""
        return sum(self.rank * (d_in + d_out) for d_in, d_out in self.shapes.values())


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


class SetPooling(nn.Module):
    """Weighted mean of a set of vectors, several heads: invariant to order, any number of vectors, one is itself.

    Source: attention-based deep sets, Ilse et al. 2018, arXiv:1802.04712.
    """

    def __init__(self, width: int, heads: int = POOLING_HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.score = nn.Linear(width, heads)

    def forward(self, x: Float[Tensor, "K N H"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K H"]:
        weights = self.score(x).masked_fill(~mask[..., None], -torch.inf).softmax(1)
        values = (x + self.value(x)).unflatten(-1, (self.heads, -1))
        return torch.einsum("knh,knhc->khc", weights.to(values.dtype), values).flatten(1)


class Block(nn.Module):
    """Residual MLP block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Head(nn.Module):
    """Writes A and B of one group of modules: a learned constant A, and deviations read from the trunk.

    Each rank reads a code of its own from the trunk; one linear map, shared by ranks and layers, writes from a code a
    row of A and a column of B. Its B half starts at zero, so a new generator writes the zero adapter. Outputs are in
    units of the teachers' RMS.
    """

    rms_a: Tensor
    rms_b: Tensor
    layers: Tensor

    def __init__(self, group: ModuleGroup, rank: int, hidden: int, code: int) -> None:
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

    def forward(self, trunk: Float[Tensor, "K L H"]) -> tuple[Tensor, Tensor]:
        """A [K, layers, r, d_in] and B [K, layers, d_out, r] in float32."""
        codes = self.code(trunk[:, self.layers]).unflatten(-1, (self.rank, -1))
        a = (self.constant_a + self.write_a(codes).float()) * self.rms_a[:, None, None]
        b = self.write_b(codes).float() * self.rms_b[:, None, None]
        return a, b.transpose(-1, -2)


class LoRAGenerator(nn.Module):
    """Reads the embedded texts of K tasks, writes one LoRA adapter for each task."""

    def __init__(self, spec: GeneratorSpec, encoder: TextEncoder | None = None) -> None:
        super().__init__()
        if spec.size not in SIZES:
            raise InputError(f"generator.size {spec.size!r} is unknown; choose one of {', '.join(SIZES)}")
        size, self.spec, self._encoder = SIZES[spec.size], spec, encoder
        groups, n_layers = group_modules(spec.shapes)
        self.project = nn.Linear(spec.embedding_dim, size.hidden)
        self.pooling = SetPooling(size.hidden)
        self.layer = nn.Embedding(n_layers, size.hidden)
        self.trunk = nn.Sequential(*(Block(size.hidden) for _ in range(size.blocks)), nn.LayerNorm(size.hidden))
        self.heads = nn.ModuleList(Head(group, spec.rank, size.hidden, size.code) for group in groups)
        with torch.no_grad():
            self.project.weight.mul_(spec.embedding_dim**0.5)

    def forward(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"], again: tuple[Tensor, Tensor] | None = None) -> Any:
        """One adapter per row; masked vectors do not count. Factors are float32.

        With `again`, other sets of vectors and their mask, returns (factors, what was read [K H], what is read again [M H]):
        one call, so that data-parallel training sees every parameter's use.
        """
        read = self.read(embeddings, mask)
        factors = self.write(read)
        return factors if again is None else (factors, read, self.read(*again))

    def read(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K H"]:
        """What each set of vectors says, as one vector."""
        return self.pooling(self.project(embeddings), mask)

    def write(self, read: Float[Tensor, "K H"]) -> LoRAFactors:
        """One adapter for each vector that was read."""
        trunk = self.trunk(read[:, None] + self.layer.weight)
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        for head in self.heads:
            assert isinstance(head, Head)
            all_a, all_b = head(trunk)
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
    def fit_scale(self, teachers: LoRAFactors) -> None:
        """Take output scales and the constant A from the teachers: per-module RMS, and the mean of their A.

        Teachers trained from one seed share their initial A, so most of A is that mean. Modules a teacher does not
        target count as absent.
        """
        own = self.spec.alpha / self.spec.rank
        for head in self.heads:
            assert isinstance(head, Head)
            for i, name in enumerate(head.group.names):
                present = torch.tensor([rank > 0 for rank in teachers.ranks[name]])
                if not present.any():
                    continue
                a, b = teachers.a[name][present].float(), teachers.b[name][present].float()
                b = b * (teachers.scaling[name][present].float() / own)[:, None, None]
                head.rms_a[i], head.rms_b[i] = (x.square().mean().sqrt().clamp_min(1e-8) for x in (a, b))
                mean = F.pad(a.mean(0), (0, 0, 0, self.spec.rank - a.shape[1]))
                head.constant_a[i] = mean / head.rms_a[i]

    def parameters_per_number(self) -> float:
        """Trained parameters for each number of one emitted adapter."""
        return sum(p.numel() for p in self.parameters()) / self.spec.emitted()

    def encoder(self, base: Base | None = None) -> TextEncoder:
        """The text encoder this generator was trained with; built on first use.

        Raises:
            InputError: The encoder found under its name holds other content.
        """
        if self._encoder is None:
            encoder = build_encoder(self.spec.encoder, base)
            if self.spec.encoder_id and encoder.content_id != self.spec.encoder_id:
                raise InputError(
                    f"text encoder {self.spec.encoder} is {encoder.content_id}, the generator was trained with {self.spec.encoder_id}; "
                    "install that version of the encoder, or train the generator anew"
                )
            self._encoder = encoder
        return self._encoder

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[str]] | None = None,
        description: str | Sequence[str] | None = None,
        base: Base | None = None,
    ) -> LoRAFactors:
        """Write adapters for one task or many, in one pass.

        Args:
            prompts: Unlabeled prompts of one task, or one such list for each task.
            description: The sentence that describes the task, or one for each task.
            base: The frozen base; only the `base` encoder needs it.

        Raises:
            InputError: Neither is given, the two disagree on the number of tasks, or a text is empty.
        """
        conditions = collect_conditions(prompts, description)
        was_training = self.training
        self.eval()
        device = self.project.weight.device
        embeddings, mask = embed_conditions(self.encoder(base), conditions)
        factors = self(embeddings.to(device), mask.to(device))
        self.train(was_training)
        return factors

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.safetensors`, then `config.json`; a folder with a config is whole."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_bytes(Path(folder) / WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
        size = {"parameters": sum(p.numel() for p in self.parameters()), "numbers_emitted": self.spec.emitted()}
        write_json(Path(folder) / CONFIG_FILE, {"format": FORMAT, **asdict(self.spec), **size})

    @classmethod
    def from_pretrained(cls, folder: str | Path, encoder: TextEncoder | None = None) -> "LoRAGenerator":
        """Read a generator back, in eval mode, from its folder, a checkpoint, or a run folder.

        Raises:
            InputError: No generator there, another format, or weights that do not fit the config.
        """
        folder = generator_folder(folder)
        generator = cls(_read_spec(folder / CONFIG_FILE), encoder)
        try:
            weights = load_file(folder / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}); save the generator again") from error
        load_weights(generator, weights, folder / WEIGHTS_FILE)
        return generator.eval()


def generator_folder(checkpoint: str | Path) -> Path:
    """The generator's folder of a run folder, or the folder itself. InputError when there is no generator."""
    checkpoint = Path(checkpoint)
    for folder in (checkpoint / "generator", checkpoint):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise InputError(f"{checkpoint}: no generator there; give a run folder of 'llgbm train', its generator/ or one of its checkpoints")


def load_weights(generator: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Load weights exactly; InputError names the first tensor that is missing, unexpected, misshapen or not finite."""
    expected = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            fault = "is missing" if name in expected else "is not part of this generator"
            raise InputError(f"{source}: tensor {name} {fault}; the checkpoint has another layout than its config")
        if tuple(weights[name].shape) != expected[name]:
            raise InputError(f"{source}: {name} is {tuple(weights[name].shape)}, the config asks for {expected[name]}")
        if not weights[name].isfinite().all():
            raise InputError(f"{source}: {name} holds NaN or infinite values; use an earlier checkpoint")
    generator.load_state_dict(weights)


def collect_conditions(prompts: Sequence[str] | Sequence[Sequence[str]] | None, description: str | Sequence[str] | None) -> list[list[str]]:
    """One list of texts per task: the description if any, then the prompts."""
    if isinstance(prompts, str):
        raise InputError("prompts must be a list of strings (one task) or a list of lists (many tasks), not one string")
    described = [description] if isinstance(description, str) else list(description or [])
    per_task = [list(prompts)] if prompts and isinstance(prompts[0], str) else [list(p) for p in prompts or []]
    if not described and not per_task:
        raise InputError("nothing to generate from: give prompts, a description, or both")
    if described and per_task and len(described) != len(per_task):
        raise InputError(f"{len(described)} descriptions but prompts for {len(per_task)} tasks; give one of each per task")
    count = max(len(described), len(per_task))
    described_lists = [[d] for d in described] or [[] for _ in range(count)]
    return [d + [str(p) for p in ps] for d, ps in zip(described_lists, per_task or [[]] * count, strict=True)]


def embed_conditions(encoder: TextEncoder, conditions: Sequence[Sequence[str]]) -> tuple[Float[Tensor, "K N E"], Bool[Tensor, "K N"]]:
    """The vectors of each task's texts as one set, padded to the largest set."""
    without = next((k for k, texts in enumerate(conditions) if not texts), None)
    if without is not None:
        raise InputError(f"task {without + 1} of {len(conditions)} has no prompt and no description; give at least one")
    rows = iter(encoder.encode([text for texts in conditions for text in texts]))
    return pad_sets([torch.cat([next(rows) for _ in texts]) for texts in conditions])


def pad_sets(sets: Sequence[Float[Tensor, "_ E"]]) -> tuple[Float[Tensor, "K N E"], Bool[Tensor, "K N"]]:
    """Stack sets of different sizes with a mask that is true at real members."""
    longest = max(len(rows) for rows in sets)
    mask = torch.tensor([[i < len(rows) for i in range(longest)] for rows in sets])
    return torch.stack([F.pad(rows, (0, 0, 0, longest - len(rows))) for rows in sets]), mask


def _split_layer(name: str) -> tuple[str, int]:
    """("model.layers.*.self_attn.q_proj", 3) of "model.layers.3.self_attn.q_proj"; layer -1 without a number."""
    match = re.search(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", name)
    if match is None:
        return name, -1
    return name[: match.start()] + "*" + name[match.end() :], int(match.group())


def _read_spec(path: Path) -> GeneratorSpec:
    content: dict[str, Any] = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise InputError(f"{path}: generator format {found!r}, this version reads {FORMAT}; train the generator anew")
    known = {f.name for f in fields(GeneratorSpec)}
    missing = [n for n in ("shapes", "rank", "alpha", "embedding_dim") if n not in content]
    if missing:
        near = difflib.get_close_matches(missing[0], content, n=1)
        raise InputError(f"{path}: key {missing[0]!r} is missing" + (f" (found {near[0]!r})" if near else ""))
    values = {key: value for key, value in content.items() if key in known}
    values["shapes"] = {name: (int(shape[0]), int(shape[1])) for name, shape in content["shapes"].items()}
    return GeneratorSpec(**values)
