"""The count of host synchronizations: everything whose value or shape Python has to know, and nothing else."""

import pytest
import torch

from llgbm.bench.syncs import host_syncs

X = torch.arange(6.0)


@pytest.mark.parametrize(
    ("work", "operation"),
    [
        (lambda: X.sum().item(), "_local_scalar_dense"),
        (lambda: float(X.sum()), "_local_scalar_dense"),
        (lambda: bool((X > 1).any()), "_local_scalar_dense"),
        (lambda: X.tolist(), "tolist"),
        (lambda: X.numpy(), "numpy"),
        (lambda: X[X > 1], "index"),
        (lambda: X.nonzero(), "nonzero"),
        (lambda: X.masked_select(X > 1), "masked_select"),
        (lambda: torch.equal(X, X), "equal"),
        (lambda: X.repeat_interleave(torch.ones(6, dtype=torch.long)), "repeat_interleave"),
    ],
)
def test_what_waits_is_counted(work, operation):
    assert host_syncs(work) == {operation: 1}


def test_gradients_of_what_waits_are_counted():
    x = X.clone().requires_grad_()
    found = host_syncs(lambda: x[x > 1].sum().backward())
    assert found["index"] == 1
    assert found.total() > 1


@pytest.mark.parametrize(
    "work",
    [
        lambda: (X * 2).softmax(0).sum(),
        lambda: torch.where(X > 1, X, 0.0).sum(),
        lambda: X[torch.tensor([1, 2])],
        lambda: X.repeat_interleave(torch.ones(6, dtype=torch.long), output_size=6),
        lambda: X.topk(2),
    ],
)
def test_what_does_not_wait_is_not_counted(work):
    assert not host_syncs(work)
