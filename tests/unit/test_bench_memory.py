"""Peaks of tensors alive at once, against counts by hand."""

import torch

from llgbm.bench.memory import peak_bytes


def test_freed_tensors_no_longer_count() -> None:
    def work() -> None:
        x = torch.zeros(1000)
        y = x + 1
        del x
        z = y * 2  # two alive, as before
        del y, z
        torch.zeros(500)

    assert peak_bytes(work) == 2 * 4000


def test_views_and_what_was_there_before_are_free() -> None:
    old = torch.zeros(1000)
    assert peak_bytes(lambda: old.view(10, 100).mT[2:].add_(1)) == 0
    assert peak_bytes(lambda: (old + 1).view(10, 100).mT) == 4000


def test_backward_counts() -> None:
    weights = torch.ones(1000, requires_grad=True)
    assert peak_bytes(lambda: weights.exp().sum()) == 4004
    assert peak_bytes(lambda: weights.exp().sum().backward()) >= 8000
    assert weights.grad is not None
