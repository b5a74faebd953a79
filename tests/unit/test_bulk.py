"""Adapters read together are those read one by one, and a broken one spoils none of the others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llgbm.lora.adapter_config import CONFIG_FILE, UNSUPPORTED
from llgbm.lora.bulk import read_readable
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import TENSOR_FILE, read_adapter, write_adapter

SHAPES = {"layers.0.q": (6, 4), "layers.0.v": (6, 2)}


def _write(folder: Path, seed: int, rank: int = 2, shapes: dict[str, tuple[int, int]] = SHAPES) -> Path:
    generator = torch.Generator().manual_seed(seed)
    factors = LoRAFactors.initialize(shapes, rank, 8.0).map(lambda t: torch.randn(t.shape, generator=generator))
    write_adapter(folder, factors, base_name="b")
    return folder


def _spoil(path: Path, value: float) -> None:
    tensors = load_file(path / TENSOR_FILE)
    first = next(iter(tensors))
    tensors[first] = torch.full_like(tensors[first], value)
    save_file(tensors, path / TENSOR_FILE, {"format": "pt"})


def _assert_same(paths: list[Path]) -> None:
    batch = read_readable(paths)
    assert batch.paths == [str(path) for path in paths]
    assert batch.factors is not None
    for i, path in enumerate(paths):
        assert batch.factors.content_hash(i) == read_adapter(path).content_hash()


def test_equal_layouts(tmp_path: Path) -> None:
    _assert_same([_write(tmp_path / str(k), k) for k in range(4)])


def test_different_ranks_modules_and_dtypes_in_any_order(tmp_path: Path) -> None:
    paths = [_write(tmp_path / str(k), k, rank=1 + k % 3) for k in range(6)]
    paths.insert(2, _write(tmp_path / "fewer", 9, shapes={"layers.0.v": (6, 2)}))
    half = [_write(tmp_path / f"half{k}", 10 + k) for k in range(2)]
    for path in half:
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(path / TENSOR_FILE).items()}
        save_file(tensors, path / TENSOR_FILE, {"format": "pt"})
    _assert_same([half[0], *paths, half[1]])
    _assert_same([*paths[::-1], *half])


def test_one_layout_but_other_scalings(tmp_path: Path) -> None:
    paths = [_write(tmp_path / str(k), k) for k in range(3)]
    config = paths[1] / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 16}))
    _assert_same(paths)
    factors = read_readable(paths).factors
    assert factors is not None
    assert factors.scaling["layers.0.q"].tolist() == [4.0, 8.0, 4.0]


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_bad_ones_are_named_and_the_rest_is_read(tmp_path: Path, bad: int) -> None:
    paths = [_write(tmp_path / str(k), k) for k in range(4)]
    _spoil(paths[bad], float("nan"))
    cut = _write(tmp_path / "cut", 9)
    (cut / TENSOR_FILE).write_bytes((cut / TENSOR_FILE).read_bytes()[:-8])
    batch = read_readable([*paths, cut, tmp_path / "absent"])
    assert batch.paths == [str(path) for k, path in enumerate(paths) if k != bad]
    assert "NaN or infinite" in batch.failures[str(paths[bad])]
    assert "truncated or broken" in batch.failures[str(cut)]
    assert "no such folder" in batch.failures[str(tmp_path / "absent")]
    assert batch.factors is not None
    assert batch.factors.n_adapters == 3


def test_nothing_readable(tmp_path: Path) -> None:
    batch = read_readable([tmp_path / "a", tmp_path / "b"])
    assert (batch.paths, batch.factors, len(batch.failures)) == ([], None, 2)


def test_shapes_of_the_base_are_checked(tmp_path: Path) -> None:
    paths = [_write(tmp_path / str(k), k) for k in range(2)]
    batch = read_readable(paths, {"layers.0.q": (7, 4), "layers.0.v": (6, 2)})
    assert set(batch.failures) == {str(path) for path in paths}
    assert all("expected (2, 7)" in reason for reason in batch.failures.values())


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    2.5,
    10**400,
    "",
    "(",
    "all",
    [],
    ["q"],
    [[0, 1]],
    {},
    {"(": 2},
    {"q": None},
    {"q": [1]},
    {"q": 2},
)
KEYS = ("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "init_lora_weights", "target_modules")


def test_odd_configs_are_named_and_spoil_no_others(tmp_path: Path) -> None:
    good = [_write(tmp_path / name, seed) for seed, name in enumerate(("first", "last"))]
    paths = [good[0]]
    for key in (*KEYS, *UNSUPPORTED):
        for i, value in enumerate(ODD):
            paths.append(_write(tmp_path / f"{key}{i}", 3))
            config = paths[-1] / CONFIG_FILE
            config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    batch = read_readable([*paths, good[1]])
    assert len(batch.paths) + len(batch.failures) == len(paths) + 1
    assert {str(path) for path in good} <= set(batch.paths)
    assert len(batch.failures) > 100
    for path, why in batch.failures.items():
        assert why.startswith(f"adapter {path}: ")
        assert "\n" not in why


def test_adapters_of_another_base_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    paths = [_write(tmp_path / str(k), k, rank=1 + k % 2) for k in range(4)]
    others = [_write(tmp_path / f"other{k}", k, shapes={"layers.0.v": (6, 3)}) for k in range(2)]
    batch = read_readable([others[0], *paths, others[1]])
    assert batch.paths == [str(path) for path in paths]
    assert batch.failures.keys() == {str(path) for path in others}
    for path, reason in batch.failures.items():
        assert reason == f"adapter {path}: module layers.0.v maps 6 to 3 numbers, of most others 6 to 2; use adapters of one base"
