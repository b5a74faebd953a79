"""`llgbm bench compile`: what torch.compile brings to K adapters in one functional forward, and what it costs first."""

import statistics
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from llgbm.bench.clock import alone, timed
from llgbm.bench.forward import some_work
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
    trained = [tensor.requires_grad_() for tensor in factors.tensors()]
    plain, compiled = functional.model, torch.compile(functional.model, dynamic=False)

    def forward(model: object, gradients: bool) -> Tensor:
        functional.model = model  # pyright: ignore[reportAttributeAccessIssue]
        with nullcontext() if gradients else torch.no_grad():
            logits = functional(factors, batch.input_ids, batch.attention_mask, logits_at=batch.predicts).logits
        assert logits is not None
        return logits

    def step(model: object) -> list[Tensor]:
        for tensor in trained:
            tensor.grad = None
        forward(model, gradients=True).float().logsumexp(-1).sum().backward()
        return [tensor.grad for tensor in trained if tensor.grad is not None]

    def both(model: object) -> tuple[Tensor, list[Tensor]]:
        return forward(model, gradients=False), step(model)

    logits, gradients = both(plain)
    try:
        (other, others), compiling = timed(lambda: both(compiled))
    except (BackendCompilerFailed, InductorError) as error:
        raise InputError(f"torch.compile does not work here ({first_line(error)}); install a C++ compiler such as g++") from error
    finally:
        functional.model = plain
    work: dict[str, Callable[[], object]] = {
        "forward": lambda: forward(plain, gradients=False),
        "compiled_forward": lambda: forward(compiled, gradients=False),
        "step": lambda: step(plain),
        "compiled_step": lambda: step(compiled),
    }
    seconds = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            seconds[name].append(alone(run))
    functional.model = plain
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
