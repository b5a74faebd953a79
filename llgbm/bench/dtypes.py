"""`llgbm bench dtypes`: a base in bfloat16, and with its linear layers in 8 and in 4 bits: memory, and seconds of a step of K adapters."""

import statistics
from dataclasses import replace

from llgbm.bench.clock import alone
from llgbm.bench.forward import gradients_of, some_work
from llgbm.config import ExperimentConfig
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.targets import COMPUTED_IN
from llgbm.zoo.base import load_configured
from llgbm.zoo.quantized import QUANTIZED


def bench_dtypes(config: ExperimentConfig, n_adapters: int = 8, sequences: int = 1, repeats: int = 5) -> dict:
    """Bytes of the base's weights, and median seconds of a forward and backward, in turn; InputError as `zoo.quantized`."""
    plain = str(COMPUTED_IN).removeprefix("torch.")
    wrapped: dict[str, FunctionalLoRA] = {}
    for dtype in (plain, *QUANTIZED):
        base = load_configured(replace(config.model, dtype=dtype))
        wrapped[dtype], factors, _, batch = some_work(base, config, n_adapters, sequences)
    for tensor in factors.tensors():
        tensor.requires_grad_()
    seconds = {dtype: [] for dtype in wrapped}
    for round_number in range(repeats + 1):
        for dtype, functional in wrapped.items():
            taken = alone(lambda functional=functional: gradients_of(functional, factors, batch))
            if round_number:  # the first is to get warm
                seconds[dtype].append(taken)
    median = {dtype: statistics.median(values) for dtype, values in seconds.items()}
    return {
        "n_adapters": n_adapters,
        "tokens": int(batch.attention_mask.sum()),
        **{
            f"{dtype}_mib": round(sum(weight.nbytes for weight in functional.model.parameters()) / 2**20, 1)
            for dtype, functional in wrapped.items()
        },
        **{f"{dtype}_s": value for dtype, value in median.items()},
        **{f"{dtype}_times_{plain}": median[dtype] / median[plain] for dtype in QUANTIZED},
    }
