"""What can happen to a teacher's folder: each takes the folder to damage and that of another teacher."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FILE = "adapter_model.safetensors"


def swap(one: Path, two: Path) -> None:
    shutil.rmtree(one)
    shutil.copytree(two, one)


def flip(one: Path, two: Path) -> None:
    content = bytearray((one / FILE).read_bytes())
    content[-3] ^= 1
    (one / FILE).write_bytes(content)


def truncate(one: Path, two: Path) -> None:
    (one / FILE).write_bytes((one / FILE).read_bytes()[:-9])


def spoil(one: Path, two: Path) -> None:
    tensors = load_file(one / FILE)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, one / FILE)


DAMAGES: dict[Callable[[Path, Path], None], str] = {
    swap: "its weights have hash",
    flip: "its weights have hash",
    truncate: "truncated or broken",
    spoil: "NaN or infinite",
}
"""Each with what is said of it."""
