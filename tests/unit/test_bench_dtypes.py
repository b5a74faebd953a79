"""Every precision has its memory and its seconds."""

import pytest

from llgbm.bench.dtypes import bench_dtypes
from llgbm.config import ExperimentConfig, LoRAConfig


def test_fewer_bits_are_fewer_bytes() -> None:
    pytest.importorskip("bitsandbytes")
    figures = bench_dtypes(ExperimentConfig(lora=LoRAConfig(rank=2, target_modules=["q_proj", "down_proj"])), 2, 1, repeats=1)
    assert figures["nf4_mib"] < figures["int8_mib"] < figures["bfloat16_mib"]
    assert min(figures[f"{dtype}_s"] for dtype in ("bfloat16", "int8", "nf4")) > 0
