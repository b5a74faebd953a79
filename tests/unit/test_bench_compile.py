"""Compiled and plain forwards are of the same numbers, and each way has its seconds."""

import shutil

import pytest

from llgbm.bench.compiled import bench_compile
from llgbm.config import ExperimentConfig, LoRAConfig


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own imports
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_compiled_forwards_and_gradients_are_those_of_the_plain_model() -> None:
    figures = bench_compile(ExperimentConfig(lora=LoRAConfig(rank=2, target_modules=["q_proj", "down_proj"])), 2, 1, repeats=1)
    assert figures["max_difference"] < 1e-4 < 1 < figures["largest_logit"]
    assert figures["gradient_difference"] < 1e-4
    assert min(figures[f"{way}_s"] for way in ("compiling", "forward", "compiled_forward", "step", "compiled_step")) > 0
