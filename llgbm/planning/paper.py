"""A base on paper: the modules and shapes of a model whose weights nobody has loaded, from its config alone."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from llgbm.config import ModelConfig
from llgbm.errors import InputError
from llgbm.files import read_yaml
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import target_shapes
from llgbm.memory import SHARE, MemoryPlan
from llgbm.planning.work import on_paper
from llgbm.zoo.base import Base, ensure_padding, plain_dtype, read_config, read_tokenizer
from llgbm.zoo.named import loadable_name

ARCHITECTURES = Path(__file__).parent / "architectures.yaml"
"""Sizes of published models by hub id, for planning where the hub is out of reach."""


class PaperMemory(MemoryPlan):
    """The memory of a device that is not here.

    Args:
        kind: Of device: cpu or cuda.
        capacity: Its bytes.
        taken: Bytes of the base that lies there.
    """

    def __init__(self, kind: str, capacity: float, taken: float) -> None:
        super().__init__(kind)
        self.capacity, self.taken = capacity, taken

    def free_bytes(self, settled: bool = True) -> int:
        """What new work may take."""
        return max(0, int(SHARE * (self.capacity - self.taken)))


class PaperLoRA(FunctionalLoRA):
    """A base on paper; whether its head can be run apart from its layers cannot be tried there, and is taken for granted."""

    def by_chunks(self, n_tokens: int) -> bool:
        """Whether the logits of so many tokens come by chunks."""
        return self.is_large(n_tokens)


def paper_base(model: ModelConfig, target_modules: Any, kind: str, capacity: float) -> FunctionalLoRA:
    """Wrap a base that exists on paper; to be used inside `on_paper()`.

    Args:
        model: Names the base and its precision. InputError when no config of that name is found, or for a quantized base.
        target_modules: What adapters touch.
        kind: Of the device it would lie on: cpu or cuda.
        capacity: Memory of that device in bytes.
    """
    config = architecture(model.name, model.revision)
    built: Any = AutoModelForCausalLM.from_config(config, dtype=plain_dtype(model.dtype, "a plan"))
    built.requires_grad_(False)
    functional = PaperLoRA(built, target_shapes(built, target_modules))
    functional.memory = PaperMemory(kind, capacity, weights_bytes(functional))
    return functional


def weights_bytes(functional: FunctionalLoRA) -> int:
    """Bytes of the base's weights; tied ones count once."""
    return sum(parameter.nbytes for parameter in functional.model.parameters())


def architecture(name: str, revision: str | None = None) -> PretrainedConfig:
    """The config of a base: of a directory or a built-in one its own, of a published one what this package knows, else the hub's.

    Raises:
        InputError: Nothing is known under this name.
    """
    known = read_yaml(ARCHITECTURES)
    source = loadable_name(name)
    if source in known and not Path(source).is_dir():
        return AutoConfig.for_model(**known[source])
    try:
        return read_config(name, source, revision)
    except InputError as error:
        raise InputError(f"{error}; without the hub, plans know the sizes of {', '.join(known)}") from error


def paper_tokens(model: ModelConfig) -> Base | None:
    """A base on paper with its real tokenizer, to read examples with; None where the tokenizer is not on this machine."""
    source = loadable_name(model.name)
    if not Path(source).is_dir():
        return None
    tokenizer = read_tokenizer(model.name, source, model.revision)
    with on_paper():
        built: Any = AutoModelForCausalLM.from_config(read_config(model.name, source, model.revision))
    ensure_padding(model.name, tokenizer, built)
    return Base(built, tokenizer, model.name)
