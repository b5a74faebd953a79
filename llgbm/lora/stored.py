"""Adapters that stay on disk: read when they are selected, or before, the ones used last kept on the device up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import adapter_numbers, adapter_shapes, read_adapter
from llgbm.transfer import pinned, to_device

FACTOR_BYTES = torch.float32.itemsize
PART = 16
"""Adapters read together where all of them are gone through."""


class StoredFactors:
    """K adapters on disk, selected as those of `LoRAFactors` are.

    One thread reads what is expected while the device computes, into memory from which the device copies by itself.

    Args:
        paths: Their folders.
        device: Where selected ones go.
        max_bytes: What may stay there between selections.
    """

    def __init__(self, paths: Sequence[str | Path], device: torch.device | str, max_bytes: int) -> None:
        self.paths, self.device, self.max_bytes = list(paths), torch.device(device), max_bytes
        self.shapes: dict[str, tuple[int, int]] = {}
        """Module name -> (d_in, d_out), of every module that one of them touches."""
        self._kept: OrderedDict[int, LoRAFactors] = OrderedDict()
        self._bytes = 0
        self._reader = ThreadPoolExecutor(1, "adapters")
        self._expected: dict[int, Future[LoRAFactors]] = {}
        for path in self.paths:
            self.shapes |= adapter_shapes(path)

    @property
    def n_adapters(self) -> int:
        """K."""
        return len(self.paths)

    @property
    def module_names(self) -> tuple[str, ...]:
        """Modules that at least one adapter touches."""
        return tuple(self.shapes)

    @property
    def kept_bytes(self) -> int:
        """Bytes of A and B that are held now."""
        return self._bytes

    def expect(self, indices: Sequence[int] | torch.Tensor) -> None:
        """Begin to read what will be selected next; what was expected before and was not selected is let go."""
        wanted = {int(i) for i in indices} - self._kept.keys()
        for index in self._expected.keys() - wanted:
            self._expected.pop(index).cancel()
        for index in sorted(wanted - self._expected.keys()):
            self._expected[index] = self._reader.submit(self._load, index)

    def select(self, indices: Sequence[int] | torch.Tensor) -> LoRAFactors:
        """The chosen adapters, in that order, stacked: modules and ranks are those of the chosen ones."""
        return LoRAFactors.stack([self._read(int(i)) for i in indices])

    def parts(self) -> Iterator[LoRAFactors]:
        """All of them, some at a time."""
        parts = [range(start, min(start + PART, self.n_adapters)) for start in range(0, self.n_adapters, PART)]
        for part, following in zip(parts, [*parts[1:], range(0)], strict=True):
            chosen = self.select(part)
            self.expect(following)
            yield chosen

    def _load(self, index: int) -> LoRAFactors:
        return read_adapter(self.paths[index]).map(partial(pinned, device=self.device))

    def _read(self, index: int) -> LoRAFactors:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        coming = self._expected.pop(index, None)
        one = self._load(index) if coming is None else coming.result()
        one = one.map(partial(to_device, device=self.device)).to(self.device)
        self._kept[index] = one
        self._bytes += _size(one)
        while self._bytes > self.max_bytes and self._kept:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return one


def stored_bytes(paths: Sequence[str | Path]) -> int:
    """What adapters take in memory, by the heads of their files; one that cannot be read takes nothing."""
    total = 0
    for path in paths:
        with suppress(InputError):
            total += FACTOR_BYTES * adapter_numbers(path)
    return total


def parts_of(factors: LoRAFactors | StoredFactors) -> Iterator[LoRAFactors]:
    """All adapters, as many at a time as are held together."""
    yield from [factors] if isinstance(factors, LoRAFactors) else factors.parts()


def _size(factors: LoRAFactors) -> int:
    return sum(tensor.nbytes for tensor in factors.tensors())
