"""The benchmarks' clock waits for the device, and every benchmark reads that clock."""

import time
from pathlib import Path

import pytest
import torch

from llgbm.bench import clock


def test_the_clock_goes_forward_in_seconds() -> None:
    start = clock.now()
    time.sleep(0.02)
    assert 0.02 <= clock.now() - start < 2


def test_no_benchmark_reads_another_clock() -> None:
    folder = Path(clock.__file__).parent
    assert [file.name for file in folder.glob("*.py") if "perf_counter" in file.read_text()] == ["clock.py"]


@pytest.mark.gpu
def test_the_clock_waits_for_the_device(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("work on the CPU is done when the call returns")
    matrix = torch.randn(4096, 4096, device=device)
    begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    start = clock.now()
    begin.record()
    for _ in range(50):
        matrix = matrix @ matrix / 64
    end.record()
    assert clock.now() - start >= 0.9 * begin.elapsed_time(end) / 1000
