"""What deployment is measured with: the study's base under its own LoRA runs, or random weights under random adapters."""

import math
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import ALL_LINEAR, read_adapters, target_shapes
from llgbm.lora.seeding import seeded
from llgbm.study.folder import Study
from llgbm.study.parity import ADAPTERS
from llgbm.study.serving import Served, prepared
from llgbm.zoo.base import load_configured

BASE = "base"
CHANGE = 0.3
"""Size of a random adapter's change against that of the weights it is added to: enough to change most answers."""


def serve_model(study: Study, name: str, folder: Path) -> tuple[Served, str]:
    """A model of `deployment.models` with as many adapters as are asked for at most, and what these are, in words.

    Args:
        study: The study; `base` takes the adapters of its finished LoRA runs, again and again where there are too few.
        name: base, or random-100m.
        folder: Where adapters are written.

    Raises:
        InputError: The base cannot be loaded as a causal language model, or has no module of the names in `lora.target_modules`.
    """
    config, device = study.config.deployment, study.config.model.device
    count = max(*config.adapters, 2)
    model = load_configured(study.config.model).model if name == BASE else random_llama()
    model = model.to(device).float()  # pyright: ignore[reportArgumentType]
    shapes = target_shapes(model, study.config.lora.target_modules if name == BASE else ALL_LINEAR)
    trained = _trained(study, shapes) if name == BASE else None
    factors = (
        random_adapters(model, shapes, config.rank, count)
        if trained is None
        else trained.select([i % trained.n_adapters for i in range(count)])
    )
    about = (
        f"{count} random ones of rank {config.rank}" if trained is None else f"{trained.n_adapters} of the study's LoRA runs, for {count}"
    )
    room = {"prompt_tokens": config.prompt_tokens, "requests": max(*config.batch_sizes, ADAPTERS)}
    return prepared(name, model, factors, folder, config.new_tokens, **room), about


def random_llama() -> LlamaForCausalLM:
    """110 million random weights in the proportions of a small Llama, float32."""
    shape = LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    with seeded(0, torch.device("cpu")):
        return LlamaForCausalLM(shape).eval().requires_grad_(False)


def random_adapters(model: PreTrainedModel, shapes: dict[str, tuple[int, int]], rank: int, count: int) -> LoRAFactors:
    """Adapters that change each module by `CHANGE` of its weights' size."""
    generator = torch.Generator().manual_seed(0)
    factors = LoRAFactors.initialize(shapes, rank, 2.0 * rank, count, generator)
    for name, (d_in, _) in shapes.items():
        size = float(model.get_submodule(name).weight.float().std())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        spread_of_a = 1 / math.sqrt(3 * d_in)
        factors.b[name].normal_(0, CHANGE * size / (2 * math.sqrt(rank) * spread_of_a), generator=generator)
    return factors


def trained_adapters(study: Study) -> list[Path]:
    """The folders of the adapters of all finished LoRA runs."""
    found = [study.run_folder(*run) / "adapter" for run in study.runs() if run[1] == "lora" and study.result(*run) is not None]
    return [folder for folder in found if folder.is_dir()]


def _trained(study: Study, shapes: dict[str, tuple[int, int]]) -> LoRAFactors | None:
    """The adapters of all finished LoRA runs; None where there are none, or they came with heads of their own."""
    try:
        return read_adapters(trained_adapters(study), shapes)
    except InputError:
        return None
