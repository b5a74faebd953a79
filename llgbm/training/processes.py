"""The processes that train together; the first alone touches the run's folder, what it decides or reads goes to all."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.tracking.trackers import check_tracker

T = TypeVar("T")


def from_first(work: Callable[[], T]) -> T:
    """What the first process's work returns, on every process; the work is done there alone.

    Raises:
        InputError: On every process, the same, when the first process's work raises it.
    """
    state = PartialState()
    if state.num_processes == 1:
        return work()
    said: list[Any] = [None, None]
    if state.is_main_process:
        try:
            said[0] = work()
        except InputError as error:
            said[1] = str(error)
    result, fault = broadcast_object_list(said)
    if fault is not None:
        raise InputError(fault)
    return result


def tensors_from_first(read: Callable[[], dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Named tensors that the first process reads, in host memory, on every process.

    Args:
        read: Called in the first process alone.
        device: Through which the tensors travel.

    Raises:
        InputError: On every process, when reading raises it.
    """
    state, held = PartialState(), {}
    if state.num_processes == 1:
        return read()

    def layout() -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        held.update(read())
        return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in held.items()]

    received = {}
    for name, shape, dtype in from_first(layout):
        sent = held[name].to(device).contiguous() if state.is_main_process else torch.empty(shape, dtype=dtype, device=device)
        torch.distributed.broadcast(sent, src=0)
        received[name] = sent.cpu()
    return received


def new_accelerator(config: ExperimentConfig) -> Accelerator:
    """One accelerator; the device follows `model.device`.

    accelerate keeps the precision of the first Accelerator in a process-wide singleton; a process may train several
    networks, so it is reset first.

    Raises:
        InputError: The precision does not run there, or the tracker is not installed.
    """
    AcceleratorState._reset_state()
    precision = config.training.mixed_precision
    on_cpu = config.model.device == "cpu"
    if precision == "fp16" and on_cpu:
        raise InputError("training.mixed_precision fp16 needs a GPU; use bf16 or no on the CPU")
    check_tracker(config.training.report_to)
    return Accelerator(cpu=on_cpu, mixed_precision=precision)
