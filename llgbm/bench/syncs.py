"""How often a piece of work makes the host wait for the device, counted on any device by watching every operation."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
"""Operations whose result, or its shape, the host has to know: `.item()`, `if tensor:`, `torch.equal` and the like."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
READING = ("tolist", "numpy")
"""What copies a whole tensor to the host; of tensors of the host without an operation of its own."""


class _Device:
    """Which tensors are on the device: by what they say, or, where the host stands in for one, by what they were made of."""

    def __init__(self, tensors: Iterable[Tensor] | None) -> None:
        self.everywhere = tensors is None
        self.taken = {_key(tensor): tensor for tensor in tensors or ()}
        """Kept until the end, so that no storage made later has the address of an earlier one."""

    def __contains__(self, tensor: Any) -> bool:
        if not isinstance(tensor, Tensor):
            return False
        return self.everywhere or tensor.device.type != "cpu" or isinstance(tensor, Parameter) or _key(tensor) in self.taken

    def holds_any(self, of: Any) -> bool:
        return any(tensor in self for tensor in tree_leaves(of))

    def take(self, made: Any) -> None:
        self.taken |= {_key(tensor): tensor for tensor in tree_leaves(made) if isinstance(tensor, Tensor)}

    def copy_to_host(self, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        self.taken.pop(_key(copy), None)
        return copy


class _Operations(TorchDispatchMode):
    def __init__(self, found: Counter[str], device: _Device) -> None:
        super().__init__()
        self.found, self.device = found, device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = self.device.holds_any((args, kwargs))
        out, name = func(*args, **kwargs), func.__name__.split(".")[0]
        if there:
            self.device.take(out)
            by_mask = name in INDEXING and any(_is_mask(i) and i in self.device for i in tree_leaves(args[1]))
            unknown_length = name == "repeat_interleave" and kwargs.get("output_size") is None
            if name in WAITING or by_mask or unknown_length or _to_host(name, args, out):
                self.found[name] += 1
        return out


class _Readings(TorchFunctionMode):
    """What Python asks of tensors, where no operation of the host's own tells of it."""

    def __init__(self, found: Counter[str], device: _Device) -> None:
        super().__init__()
        self.found, self.device = found, device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        there = bool(args) and args[0] in self.device
        if name in READING and there:
            self.found[name] += 1
        if name == "cpu" and there and not self.device.everywhere and args[0].device.type == "cpu":
            self.found[name] += 1
            return self.device.copy_to_host(args[0])
        out = func(*args, **kwargs)
        if name == "to" and kwargs.get("non_blocking") and not there and out.device.type == "cpu":
            out = out.clone()
            self.device.take(out)
        return out


def host_syncs(work: Callable[[], Any], device: Iterable[Tensor] | None = None) -> Counter[str]:
    """Operation -> how often the work made the host wait for it; on a CPU, how often it would on an accelerator.

    Work that threads of autograd do on an accelerator is not seen.

    Args:
        work: What is watched.
        device: Where the host stands in for an accelerator, tensors that would lie there beside parameters, what is copied with
            `non_blocking`, and whatever is made of these; what is asked of all else costs nothing. None counts all.
    """
    found, there = Counter[str](), _Device(device)
    with _Readings(found, there), _Operations(found, there):
        work()
    return found


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _to_host(name: str, args: Any, out: Any) -> bool:
    """Whether it copies from an accelerator into host memory."""
    return (
        name in ("_to_copy", "copy_")
        and isinstance(out, Tensor)
        and out.device.type == "cpu"
        and args[-1 if name == "copy_" else 0].is_cuda
    )
