"""How often a piece of work makes the host wait for the device, counted on any device by watching every operation."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
"""Operations whose result, or its shape, the host has to know: `.item()`, `if tensor:`, `torch.equal` and the like."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class _Operations(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.__name__.split(".")[0]
        by_mask = name in INDEXING and any(i.dtype in (torch.bool, torch.uint8) for i in tree_leaves(args[1]) if isinstance(i, Tensor))
        unknown_length = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or by_mask or unknown_length or _to_host(name, args, out):
            self.found[name] += 1
        return out


class _Readings(TorchFunctionMode):
    """What copies a whole tensor into Python without an operation of its own where the tensor is on the host."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "numpy"):
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def host_syncs(work: Callable[[], Any]) -> Counter[str]:
    """Operation -> how often the work made the host wait for it; on a CPU, how often it would on an accelerator.

    Work that threads of autograd do on an accelerator is not seen; what tensors of the host alone are asked counts too.
    """
    found: Counter[str] = Counter()
    with _Readings(found), _Operations(found):
        work()
    return found


def _to_host(name: str, args: Any, out: Any) -> bool:
    """Whether it copies from an accelerator into host memory."""
    return (
        name in ("_to_copy", "copy_")
        and isinstance(out, Tensor)
        and out.device.type == "cpu"
        and args[-1 if name == "copy_" else 0].is_cuda
    )
