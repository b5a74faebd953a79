"""Many adapters read at once: files of one layout become one buffer, of which every A and B is a view.

Reading a small adapter costs mostly Python work per tensor; adapters that one program wrote share their config and their
safetensors header byte for byte, so that work is done once. Whatever does not fit the pattern is read one by one.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llgbm.errors import InputError
from llgbm.lora.adapter_config import CONFIG_FILE
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import PREFIX, TENSOR_FILE, read_adapter

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header."""


@dataclass
class AdapterBatch:
    """What could be read of a list of adapters."""

    paths: list[str]
    """The sound ones, in the order asked for; `factors` has the same order."""
    factors: LoRAFactors | None
    """None when no adapter could be read."""
    failures: dict[str, str]
    """The others -> why, in a sentence that names the folder."""


def read_readable(paths: Sequence[str | Path], shapes: Mapping[str, tuple[int, int]] | None = None) -> AdapterBatch:
    """Read all adapters that can be read, with the checks of `read_adapter`, and say what is wrong with the others.

    Without `shapes` the base is that of most of them: one whose modules have other shapes is among the failures.
    """
    groups: dict[object, list[tuple[int, bytes]]] = {}
    for i, path in enumerate(paths):
        key, content = _layout(Path(path), i)
        groups.setdefault(key, []).append((i, content))
    read: list[tuple[list[int], LoRAFactors]] = []
    failures: dict[str, str] = {}
    for members in groups.values():
        _read_group(paths, members, shapes, read, failures)
    read = _of_one_base(paths, read, failures)
    if not read:
        return AdapterBatch([], None, failures)
    factors = read[0][1] if len(read) == 1 else LoRAFactors.stack([part for _, part in read])
    order = [i for indices, _ in read for i in indices]
    places = sorted(range(len(order)), key=order.__getitem__)
    if places != list(range(len(order))):
        factors = factors.select(places)
    return AdapterBatch([str(paths[i]) for i in sorted(order)], factors, failures)


def _layout(folder: Path, alone: int) -> tuple[object, bytes]:
    """What adapters must share to be read together (config and header), and the numbers; a key of its own where it cannot be told."""
    try:
        config, content = (folder / CONFIG_FILE).read_bytes(), (folder / TENSOR_FILE).read_bytes()
    except OSError:
        return alone, b""
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    return (config, content[:start], len(content)), content[start:]


def _read_group(
    paths: Sequence[str | Path],
    members: list[tuple[int, bytes]],
    shapes: Mapping[str, tuple[int, int]] | None,
    read: list[tuple[list[int], LoRAFactors]],
    failures: dict[str, str],
) -> None:
    """Read one sound member with every check, the rest by its layout; members with bad numbers one by one, for their sentence."""
    waiting = list(members)
    while waiting:
        index, _ = waiting.pop(0)
        try:
            first = read_adapter(paths[index], shapes)
        except InputError as error:
            failures[str(paths[index])] = str(error)
            continue
        views = _views(Path(paths[index]), [content for _, content in waiting]) if waiting else None
        if views is None:
            read.append(([index], first))
            continue
        tensors, finite = views
        sound = [row for row, good in enumerate(finite) if good]
        read.append(([index, *(waiting[row][0] for row in sound)], _like(first, tensors, sound)))
        waiting = [member for member, good in zip(waiting, finite, strict=True) if not good]


def _views(folder: Path, contents: list[bytes]) -> tuple[dict[str, Tensor], list[bool]] | None:
    """Tensor name -> [K, ...] over files of this folder's layout, and which files hold finite numbers; None unless all is float32."""
    with (folder / TENSOR_FILE).open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(LENGTH_BYTES), "little")))
    header.pop("__metadata__", None)
    if any(entry["dtype"] != "F32" for entry in header.values()):
        return None
    joined = torch.frombuffer(bytearray(b"".join(contents)), dtype=torch.float32).view(len(contents), -1)
    tensors = {}
    for name, entry in header.items():
        start, stop = (offset // 4 for offset in entry["data_offsets"])
        tensors[name] = joined[:, start:stop].unflatten(1, entry["shape"])
    return tensors, torch.isfinite(joined).all(1).tolist()


def _of_one_base(
    paths: Sequence[str | Path], read: list[tuple[list[int], LoRAFactors]], failures: dict[str, str]
) -> list[tuple[list[int], LoRAFactors]]:
    """The groups whose modules have the shapes that most adapters have, the only ones that can be stacked; of the others, what is wrong."""
    votes: dict[str, Counter[tuple[int, int]]] = {}
    for indices, factors in read:
        for name, shape in factors.shapes.items():
            votes.setdefault(name, Counter())[shape] += len(indices)
    usual, kept = {name: shapes.most_common(1)[0][0] for name, shapes in votes.items()}, []
    for indices, factors in read:
        odd = next((name for name, shape in factors.shapes.items() if shape != usual[name]), None)
        if odd is None:
            kept.append((indices, factors))
            continue
        for path in (paths[i] for i in indices):
            failures[str(path)] = (
                f"adapter {path}: module {odd} maps {factors.shapes[odd][0]} to {factors.shapes[odd][1]} numbers, of most others "
                f"{usual[odd][0]} to {usual[odd][1]}; use adapters of one base"
            )
    return kept


def _like(first: LoRAFactors, tensors: Mapping[str, Tensor], rows: list[int]) -> LoRAFactors:
    """The first adapter and the chosen rows of others that share its modules, ranks and scalings."""
    count, every = len(rows) + 1, len(rows) == len(next(iter(tensors.values())))
    chosen = slice(None) if every else rows

    def joined(own: Tensor, name: str, kind: str) -> Tensor:
        return torch.cat([own, tensors[f"{PREFIX}{name}.{kind}.weight"][chosen]])

    return LoRAFactors(
        {name: joined(a, name, "lora_A") for name, a in first.a.items()},
        {name: joined(b, name, "lora_B") for name, b in first.b.items()},
        {name: scaling.repeat(count) for name, scaling in first.scaling.items()},
        {name: ranks * count for name, ranks in first.ranks.items()},
    )
