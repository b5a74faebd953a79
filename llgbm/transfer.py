"""Copies from the host to a device that nobody waits for."""

import torch
from torch import Tensor


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The same in memory from which the device copies by itself, where that is another than the host's."""
    ahead = device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned()
    return tensor.pin_memory() if ahead else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for the copy."""
    return pinned(tensor, device).to(device, non_blocking=True)
