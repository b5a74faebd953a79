"""`llgbm bench compile`: what torch.compile brings to K adapters in one functional forward, and what it costs first."""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from llgbm.bench.clock import alone, timed
from llgbm.bench.forward import gradients_of, logits_of, some_work
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError, first_line
from llgbm.zoo.base import load_configured


def bench_compile(config: ExperimentConfig, n_adapters: int = 40, sequences: int = 2, repeats: int = 7) -> dict:
    """Median seconds of forward, and of forward and backward, as they are and compiled, in turn; the first calls, which compile.

    Everything is of one shape, which is the best case: training and evaluation have batches of other lengths and numbers of
    adapters, each of which would be compiled anew. InputError where torch.compile finds no compiler.
    """
    base = load_configured(config.model)
    functional, factors, _, batch = some_work(base, config, n_adapters, sequences)
    factors = factors.to(base.model.device)
    for tensor in factors.tensors():
        tensor.requires_grad_()
    plain, compiled = functional.model, torch.compile(functional.model, dynamic=False)

    @torch.no_grad()
    def forward(model: object) -> Tensor:
        functional.model = model  # pyright: ignore[reportAttributeAccessIssue]
        return logits_of(functional, factors, batch)

    def step(model: object) -> list[Tensor]:
        functional.model = model  # pyright: ignore[reportAttributeAccessIssue]
        return gradients_of(functional, factors, batch)

    def both(model: object) -> tuple[Tensor, list[Tensor]]:
        return forward(model), step(model)

    logits, gradients = both(plain)
    try:
        (other, others), compiling = timed(lambda: both(compiled))
    except (BackendCompilerFailed, InductorError) as error:
        raise InputError(f"torch.compile does not work here ({first_line(error)}); install a C++ compiler such as g++") from error
    work: dict[str, Callable[[], object]] = {
        "forward": lambda: forward(plain),
        "compiled_forward": lambda: forward(compiled),
        "step": lambda: step(plain),
        "compiled_step": lambda: step(compiled),
    }
    seconds = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            seconds[name].append(alone(run))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    saved = median["step"] - median["compiled_step"]
    return {
        "n_adapters": n_adapters,
        "tokens": int(batch.attention_mask.sum()),
        "compiling_s": compiling,
        **{f"{name}_s": value for name, value in median.items()},
        "forward_speedup": median["forward"] / median["compiled_forward"],
        "step_speedup": median["step"] / median["compiled_step"],
        "steps_until_it_pays": round(compiling / saved) if saved > 0 else None,
        "max_difference": (logits - other).abs().max().item(),
        "largest_logit": logits.abs().max().item(),
        "gradient_difference": max(((a - b).norm() / a.norm()).item() for a, b in zip(gradients, others, strict=True) if a.norm() > 0),
    }
