"""What every network that reads conditions shares: its front, its text encoder, and how it is saved and loaded.

Letters: K tasks, N vectors per task (one or more for each text), E embedding width, S slots, H trunk width.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from llgbm.errors import InputError, blame_memory
from llgbm.files import read_json, write_bytes, write_json
from llgbm.hub import fetched, hub_name, on_hub
from llgbm.models.encoder import BaseEncoder, TextEncoder, WordsInSentence
from llgbm.models.encoder_names import build_encoder, needs_base
from llgbm.zoo.base import Base, BaseIdentity, check_base

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 4


@dataclass(frozen=True)
class Size:
    """Widths of one size preset."""

    hidden: int
    blocks: int
    code: int
    """Width of the code from which a generator writes one rank's row of A and column of B."""


POOLING_HEADS = 16
SIZES = {"s": Size(256, 2, 64), "m": Size(512, 3, 128), "l": Size(768, 4, 192)}


class SetPooling(nn.Module):
    """Weighted mean of a set of vectors, several heads: invariant to order, any number of vectors, one is itself.

    Source: attention-based deep sets, Ilse et al. 2018, arXiv:1802.04712.
    """

    def __init__(self, width: int, heads: int = POOLING_HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.score = nn.Linear(width, heads)

    def forward(self, x: Float[Tensor, "K N H"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K 1 H"]:
        weights = self.score(x).masked_fill(~mask[..., None], -torch.inf).softmax(1)
        values = (x + self.value(x)).unflatten(-1, (self.heads, -1))
        return torch.einsum("knh,knhc->khc", weights.to(values.dtype), values).flatten(1)[:, None]


class SlotPooling(nn.Module):
    """S learned queries, each of which takes a weighted mean of its own of a set of vectors: what SetPooling promises, S times.

    Source: slots as in Set Transformer's pooling by attention, Lee et al. 2019, arXiv:1810.00825.
    """

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.value = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.score = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, slots))

    def forward(self, x: Float[Tensor, "K N H"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K S H"]:
        weights = self.score(x).masked_fill(~mask[..., None], -torch.inf).softmax(1)
        return torch.einsum("kns,knh->ksh", weights.to(x.dtype), x + self.value(x))


class Front(nn.Module):
    """What each of S slots takes from a set of vectors; one slot takes what several heads do."""

    def __init__(self, width: int, hidden: int, slots: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, hidden)
        self.pooling = SlotPooling(hidden, slots) if slots > 1 else SetPooling(hidden)
        with torch.no_grad():
            self.project.weight.mul_(width**0.5)

    def forward(self, vectors: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K S H"]:
        """Masked vectors do not count."""
        return self.pooling(self.project(vectors), mask)


class Block(nn.Module):
    """Residual MLP block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SlotTrunk(nn.Module):
    """Residual blocks of each slot's own; what they make of the slots is summed, so no block sees two of them."""

    def __init__(self, slots: int, width: int, blocks: int) -> None:
        super().__init__()
        self.slots = nn.ModuleList(nn.Sequential(*(Block(width) for _ in range(blocks)), nn.LayerNorm(width)) for _ in range(slots))

    def forward(self, x: Float[Tensor, "K S *L H"]) -> Float[Tensor, "K *L H"]:
        return torch.stack([slot(x[:, i]) for i, slot in enumerate(self.slots)]).sum(0) / len(self.slots) ** 0.5


class ConditionReader(nn.Module):
    """A network whose input is the embedded texts of K tasks.

    Args:
        spec: A dataclass with `embedding_dim`, `size`, `slots`, `encoder`, `encoder_id`, `base` and all else that rebuilds the network.
        encoder: The text encoder, if it is built already.
    """

    kind: ClassVar[str]
    """What a message calls such a network; a run keeps it in the folder of this name."""
    trained_by: ClassVar[str]
    """The command that trains it."""
    spec_type: ClassVar[type]
    spec: Any

    def __init__(self, spec: Any, encoder: TextEncoder | None = None) -> None:
        super().__init__()
        if spec.size not in SIZES:
            raise InputError(f"generator.size {spec.size!r} is unknown; choose one of {', '.join(SIZES)}")
        self.spec, self._encoder = spec, encoder

    def new_front(self) -> Front:
        """What reads whole vectors."""
        return Front(self.spec.embedding_dim, SIZES[self.spec.size].hidden, self.spec.slots)

    def new_trunk(self) -> "SlotTrunk":
        """The residual blocks of this size; a slot of several has one."""
        size = SIZES[self.spec.size]
        return SlotTrunk(self.spec.slots, size.hidden, size.blocks if self.spec.slots == 1 else 1)

    def encoder(self, base: Base | None = None) -> TextEncoder:
        """The text encoder this network was trained with; built on first use.

        Raises:
            InputError: The encoder found under its name holds other content.
        """
        if self._encoder is None:
            encoder = build_encoder(self.spec.encoder, base)
            found, recorded = encoder.content_id, self.spec.base
            if needs_base(self.spec.encoder) and base is not None and recorded is not None:
                check_base(f"the {self.kind}", recorded, base, any_dtype=True)  # who loaded the base asked for its dtype
                assert isinstance(encoder, BaseEncoder | WordsInSentence)
                found = encoder.content_with(recorded)
            if self.spec.encoder_id and found != self.spec.encoder_id:
                raise InputError(
                    f"text encoder {self.spec.encoder} is {found}, the {self.kind} was trained with {self.spec.encoder_id}; "
                    f"install that version of the encoder, or train the {self.kind} anew"
                )
            self._encoder = encoder
        return self._encoder

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[str] | Sequence[Sequence[str]] | None,
        description: str | Sequence[str] | None,
        base: Base | None,
    ) -> Any:
        """The network's output for one task or many, in eval mode and one pass."""
        conditions = collect_conditions(prompts, description)
        embeddings, mask = embed_conditions(self.encoder(base), conditions)
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        output = self(embeddings.to(device), mask.to(device))
        self.train(was_training)
        return output

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.safetensors`, then `config.json`; a folder with a config is whole."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_bytes(Path(folder) / WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
        size = {"parameters": sum(p.numel() for p in self.parameters()), "numbers_emitted": self.spec.emitted()}
        write_json(Path(folder) / CONFIG_FILE, {"format": FORMAT, **dataclasses.asdict(self.spec), **size})

    @classmethod
    def from_pretrained(cls, folder: str | Path, encoder: TextEncoder | None = None, revision: str | None = None) -> Self:
        """Read a network back, in eval mode, from its folder, a checkpoint, a run folder, or the hub.

        Args:
            folder: Of the hub: `hf://ORG/NAME`, or `ORG/NAME` with a revision.
            encoder: The text encoder, if it is built already.
            revision: Branch, tag or commit of a model of the hub; a folder of this machine has none.

        Raises:
            InputError: None there, another format or kind of network, weights that do not fit the config, or as `hub.fetched`.
        """
        folder = cls.folder_in(folder if revision is None else hub_name(folder, revision))
        spec = cls.read_spec(folder / CONFIG_FILE)
        network = cls(spec, encoder)
        try:
            weights = load_file(folder / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            blame_memory(error)
            raise InputError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}); save the {cls.kind} again") from error
        load_weights(network, weights, folder / WEIGHTS_FILE)
        return network.eval()

    @classmethod
    def folder_in(cls, checkpoint: str | Path) -> Path:
        """The network's folder of a run folder, or the folder itself, here or fetched from the hub. InputError when there is none."""
        here = fetched(str(checkpoint)) if on_hub(checkpoint) else Path(checkpoint)
        for folder in (here / cls.kind, here):
            if (folder / CONFIG_FILE).is_file():
                return folder
        raise InputError(
            f"{checkpoint}: no {cls.kind} there; give a run folder of '{cls.trained_by}', its {cls.kind}/ or one of its checkpoints"
        )

    @classmethod
    def read_spec(cls, path: Path) -> Any:
        """The spec of a saved network; InputError when the file is of another format or of another kind of network."""
        content: Any = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise InputError(f"{path}: {cls.kind} format {found!r}, this version reads {FORMAT}; train the {cls.kind} anew")
        fields = dataclasses.fields(cls.spec_type)
        required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
        missing = next((name for name in required if name not in content), None)
        if missing is not None:
            raise InputError(f"{path}: key {missing!r} is missing, so this is no {cls.kind}; give the folder of one")
        return cls.make_spec({f.name: content[f.name] for f in fields if f.name in content}, path)

    @classmethod
    def make_spec(cls, values: dict[str, Any], source: Path) -> Any:
        """The spec of what its file holds."""
        base = values.get("base")
        return cls.spec_type(**{**values, "base": None if base is None else BaseIdentity.read(base, source)})


def load_weights(network: ConditionReader, weights: dict[str, Tensor], source: Path) -> None:
    """Load weights exactly; InputError names the first tensor that is missing, unexpected, misshapen or not finite."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            fault = "is missing" if name in expected else f"is not part of this {network.kind}"
            raise InputError(f"{source}: tensor {name} {fault}; the checkpoint has another layout than its config")
        if tuple(weights[name].shape) != expected[name]:
            raise InputError(f"{source}: {name} is {tuple(weights[name].shape)}, the config asks for {expected[name]}")
        if not weights[name].isfinite().all():
            raise InputError(f"{source}: {name} holds NaN or infinite values; use an earlier checkpoint")
    network.load_state_dict(weights)


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
