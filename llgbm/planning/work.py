"""What a computation asks of a machine, counted while it runs: on tensors, or on paper, with tensors that know their shapes only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

WIDE_PRODUCTS = ("mm", "addmm")
"""Operations of torch that multiply two matrices; other products are of many small ones."""
FREE = {"aten::detach", "aten::alias", "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::_unsafe_view"}
"""Operations that compute nothing, beside views."""


@dataclass(frozen=True)
class Work:
    """Counts of a computation; those of several add up."""

    operations: float = 0.0
    """Calls of operations that compute something."""
    wide_flops: float = 0.0
    """Floating-point operations in products of two matrices, a multiply and an add being two."""
    batched_flops: float = 0.0
    """The same in batched products and attention."""
    moved_bytes: float = 0.0
    """Bytes that operations read and write, as if nothing stayed in a cache."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self.counts(), other.counts(), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * count for count in self.counts()))

    def counts(self) -> tuple[float, ...]:
        """In the order of the fields."""
        return tuple(getattr(self, entry.name) for entry in fields(self))


@contextmanager
def on_paper() -> Iterator[None]:
    """In here new tensors have no content, and take no memory or time; what asks for their values raises.

    Models may be as large as one likes. Tensors made in here are used in here only.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def count(work: Callable[[], Any]) -> Work:
    """Do the work, and count what it took."""
    with FlopCounterMode(display=False) as products, _Operations() as done:
        work()
    flops = products.get_flop_counts()["Global"] if products.get_total_flops() else {}
    wide = sum(number for operation, number in flops.items() if str(operation).removeprefix("aten.") in WIDE_PRODUCTS)
    return Work(done.calls, wide, sum(flops.values()) - wide, done.moved_bytes)


class _Operations(TorchDispatchMode):
    """Counts calls, and the bytes of the tensors they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.moved_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not func.is_view and func._schema.name not in FREE:
            self.calls += 1
            self.moved_bytes += sum(
                leaf.numel() * leaf.element_size() for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)
            )
        return out
