"""One plan of memory for everything that runs a base: what may be taken, how many rows share a forward, and fewer when it was too much.

The budget is what the device has left, or `memory_gb` in all. What a row takes is measured (`llgbm.functional_lora.measure`);
here it is only divided. Letters: rows come in groups of equal size, those of one adapter; a block is several whole groups or a
part of one.
"""

import ctypes
import logging
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llgbm.errors import InputError, ran_out

T = TypeVar("T")
GIB = 1 << 30
SHARE = 0.75
"""Of the memory that is free, what the plan gives away: allocators round up, and operations need scratch memory."""
COMFORTABLE_BYTES = {"cpu": 1 << 26, "cuda": GIB}
"""Larger forwards are no faster, by kind of device; on the CPU because they leave its caches, measured on the micro base."""
CGROUP = Path("/sys/fs/cgroup")
logger = logging.getLogger(__name__)


class MemoryPlan:
    """Divides the memory of one device.

    Args:
        device: Where the base runs.
        memory_gb: GiB that the process may take there in all, with what is loaded already; None takes what is free.
    """

    def __init__(self, device: torch.device | str, memory_gb: float | None = None) -> None:
        self.device, self.memory_gb = torch.device(device), memory_gb
        self.agree: Callable[[int], int] | None = None
        """Called with what this process would choose, for a number that all processes which must divide alike can take."""
        self._chosen: dict[tuple[str, int, int, int], int] = {}
        self._lowered: dict[str, int] = {}
        self._said: set[str] = set()
        self._begun: set[str] = set()

    def free_bytes(self, settled: bool = True) -> int:
        """What new work may take now; unless `settled`, memory that was freed but did not go back to the system counts as taken."""
        free = free_bytes(self.device)
        if self.memory_gb is not None:
            free = min(free, int(self.memory_gb * GIB) - used_bytes(self.device, settled))
        return max(0, int(SHARE * free))

    def at_once(self, kind: str, row_bytes: int, most: int, fixed_bytes: int = 0) -> int:
        """How many rows of some work fit, 1 to `most`; the same for equal questions, and said once for each kind of work.

        Args:
            kind: Names the work.
            row_bytes: What each row takes.
            most: More are not wanted.
            fixed_bytes: What the work takes however many rows share it.

        Raises:
            InputError: When a kind of work begins, `memory_gb` has no room for one row of it, here or in a process that must divide alike.
        """
        key = (kind, row_bytes, most, fixed_bytes)
        if key not in self._chosen:
            free, wanted, rows = self.free_bytes(settled=False), most * row_bytes + fixed_bytes, most
            if wanted > free:
                free = self.free_bytes()
                least = 1 if kind in self._begun else self._room_for_one(row_bytes + fixed_bytes)
                rows = max(least, min(most, (free - fixed_bytes) // max(1, row_bytes)))
            if self.agree is not None:
                rows = self.agree(rows)
            if rows < 1:
                raise InputError(self._too_small(kind, row_bytes + fixed_bytes))
            self._begun.add(kind)
            if rows < most or self.agree is not None:
                self._chosen[key] = rows
            self._say(kind, rows, most, row_bytes, fixed_bytes, free)
        return min(self._chosen.get(key, most), self._lowered.get(kind, most))

    def _room_for_one(self, bytes_of_one: int) -> int:
        """1 if a row fits into the budget to the last byte, or there is no budget; else 0."""
        return int(self.memory_gb is None or used_bytes(self.device) + bytes_of_one <= self.memory_gb * GIB)

    def _too_small(self, kind: str, bytes_of_one: int) -> str:
        taken = used_bytes(self.device) / GIB
        return (
            f"memory_gb {self.memory_gb:g} is too little: {taken:.2f} GiB are taken already, and one row of {kind} takes "
            f"{bytes_of_one / GIB:.2g} more; give {taken + bytes_of_one / GIB / SHARE + 0.05:.1f} or more, or leave it out"
        )

    def _say(self, kind: str, rows: int, most: int, row_bytes: int, fixed_bytes: int, free: int) -> None:
        """Tell the choice, if the user asked for a budget or memory made it; each kind once."""
        if kind in self._said or (rows == most and self.memory_gb is None):
            return
        self._said.add(kind)
        text = "memory: %s takes %d rows at once (%d would be the most), %.1f MB each and %.0f MB in any case; %.2f GiB may be taken"
        logger.info(text, kind, rows, most, row_bytes / 1e6, fixed_bytes / 1e6, free / GIB)

    def run(self, kind: str, groups: int, each: int, at_once: int, work: Callable[[range, range], T]) -> list[T]:
        """Do work for groups of rows block by block; whenever memory runs out, go on with blocks half as large.

        Args:
            kind: Names the work.
            groups: How many groups there are.
            each: Rows of every group.
            at_once: Rows of a block, at most.
            work: Called with the groups of a block and the rows of each; must leave nothing behind when it fails.

        Returns:
            One result for each block, in order.

        Raises:
            InputError: Not even one row fits.
        """
        results, waiting = [], _cut(range(groups), range(each), at_once)
        while waiting:
            try:
                results.append(work(*waiting[0]))
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                rows, reason = len(waiting[0][0]) * len(waiting[0][1]), str(error).split("\n")[0]
            else:
                waiting.pop(0)
                continue
            self.lower(kind, rows, reason)
            waiting = [smaller for block in waiting for smaller in _cut(*block, self._lowered[kind])]
        return results

    def lower(self, kind: str, rows: int, reason: str) -> int:
        """Never again so many rows: half of them. InputError when it was one."""
        if rows <= 1:
            raise InputError(
                f"not even one row of {kind} fits into memory ({reason}); free memory, or use shorter examples or a smaller base"
            )
        self._lowered[kind] = rows // 2
        logger.warning("memory: %d rows of %s were too much; going on with %d", rows, kind, rows // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return rows // 2


def used_bytes(device: torch.device, settled: bool = True) -> int:
    """What this process takes on a device; on the CPU its resident memory, if `settled` after what was freed went back to the system."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if settled and sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
    return psutil.Process().memory_info().rss


def free_bytes(device: torch.device) -> int:
    """What is left on a device: for the CPU what the system, or the container the process runs in, has available."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    available = psutil.virtual_memory().available
    limit, current = (CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and current.is_file() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text) - int(current.read_text()) + _inactive_file_bytes())
    return max(0, available)


def _inactive_file_bytes() -> int:
    """Of what a container is charged for, the pages of files that the kernel gives back when memory is asked for."""
    statistics = CGROUP / "memory.stat"
    lines = statistics.read_text().splitlines() if statistics.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def peak_bytes(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors that were alive at once during the work, beyond those alive before it."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveBytes() as live:
        work()
    return live.peak


def _cut(groups: range, rows: range, at_once: int) -> list[tuple[range, range]]:
    """Blocks of at most `at_once` rows: whole groups together if one fits, else parts of each group."""
    if len(rows) <= at_once:
        step = max(1, at_once // len(rows)) if len(rows) else len(groups)
        return [(groups[start : start + step], rows) for start in range(0, len(groups), step)]
    parts = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    return [(groups[k : k + 1], part) for k in range(len(groups)) for part in parts]


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, until they are freed; scratch memory inside an operation is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._watch(tensor, 0)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._watch(tensor, tensor.untyped_storage().nbytes())
        return out

    def _watch(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, id(storage), size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
