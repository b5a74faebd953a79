"""Tests, and commands they start, run on one thread: models are tiny, and threads that wait for each other cost more than they bring."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # make test-numeric asks for two as well
THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts what runs in the background so; commands that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def threads_again() -> Iterator[None]:
    """Another number of threads that a test, or a library it calls, asked for ends with it: tests compare bits."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test of numbers runs: on the CPU always, and (marker `gpu`) on a GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    return torch.device(request.param)
