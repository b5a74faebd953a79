"""`llgbm bench forward`: K adapters in one functional forward, against PEFT one after another and against the bare base."""

import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel

from llgbm.bench.clock import now
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch, at_tokens, concatenate
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.bulk import read_readable
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes, write_adapter
from llgbm.zoo.base import Base, load_configured
from llgbm.zoo.suites import load_suite


@torch.no_grad()
def bench_forward(config: ExperimentConfig, n_adapters: int = 40, sequences: int = 8, repeats: int = 7) -> dict:
    """Median seconds of a logits forward three ways, measured in turn; ratios; the largest difference to PEFT.

    The PEFT way loads an adapter, runs its sequences and unloads it, for each adapter; ours reads the same folders first. What
    the forward alone takes, with adapters in memory, stands against the floor, the bare base on the same tokens in one batch.
    """
    base = load_configured(config.model)
    functional, factors, parts, batch = some_work(base, config, n_adapters, sequences)

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(k) for k in range(n_adapters)]
        for k, path in enumerate(paths):
            write_adapter(path, factors, k, base_name=base.name, fan_in_fan_out=functional.fan_in_fan_out)
        model = copy.deepcopy(base.model)
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "functional": lambda: logits_of(functional, read_readable(paths, functional.shapes).factors, batch),
            "in_memory": lambda: logits_of(functional, factors, batch),
            "peft": lambda: torch.cat([_peft_logits(model, path, part) for path, part in zip(paths, parts, strict=True)]),
            "base": lambda: logits_of(functional, None, batch),
        }
        results = {name: run() for name, run in ways.items()}
        seconds = {name: [] for name in ways}
        for _ in range(repeats):
            for name, run in ways.items():
                start = now()
                run()
                seconds[name].append(now() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "n_adapters": n_adapters,
        "sequences_per_adapter": sequences,
        "tokens": int(batch.attention_mask.sum()),
        **{f"{name}_s": value for name, value in median.items()},
        "speedup_over_peft": median["peft"] / median["functional"],
        "times_the_floor": median["in_memory"] / median["base"],
        "max_difference_to_peft": (results["functional"] - results["peft"]).abs().max().item(),
        "largest_effect_of_an_adapter": (results["functional"] - results["base"]).abs().max().item(),
    }


def some_work(
    base: Base, config: ExperimentConfig, n_adapters: int, sequences: int
) -> tuple[FunctionalLoRA, LoRAFactors, list[TokenBatch], TokenBatch]:
    """The wrapped base, random adapters, each one's train examples of a task, and all of these as one batch."""
    suite = load_suite(config.zoo.suite)
    shapes = target_shapes(base.model, config.lora.target_modules)
    generator = torch.Generator().manual_seed(0)
    factors = LoRAFactors.initialize(shapes, config.lora.rank, config.lora.alpha, n_adapters, generator=generator)
    factors = factors.map(lambda tensor: torch.randn(tensor.shape, generator=generator) * 0.02)
    tasks = list(suite)[:n_adapters]
    framing = Framing.of(base, suite)
    parts = [framing.batch(tasks[k % len(tasks)].train[:sequences]).to(base.model.device) for k in range(n_adapters)]
    return FunctionalLoRA(base.model, shapes), factors, parts, concatenate(parts, framing.pad)


def logits_of(functional: FunctionalLoRA, factors: LoRAFactors | None, batch: TokenBatch) -> torch.Tensor:
    """Logits at the answers' tokens, [n, V]."""
    logits = functional(factors, batch.input_ids, logits_at=batch.predicts).logits
    assert logits is not None
    return logits


def gradients_of(functional: FunctionalLoRA, factors: LoRAFactors, batch: TokenBatch) -> list[torch.Tensor]:
    """Forward and backward of a sum over the logits: the gradient of every A and B that takes one."""
    trained = factors.tensors()
    for tensor in trained:
        tensor.grad = None
    logits_of(functional, factors, batch).float().logsumexp(-1).sum().backward()
    return [tensor.grad for tensor in trained if tensor.grad is not None]


def _peft_logits(model: torch.nn.Module, path: Path, batch: TokenBatch) -> torch.Tensor:
    adapted = PeftModel.from_pretrained(model, path)  # type: ignore[arg-type]
    logits = at_tokens(adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, batch.predicts)
    adapted.unload()
    return logits
