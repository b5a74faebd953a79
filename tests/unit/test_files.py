"""Files are whole or absent, hashes are canonical."""

import json
from pathlib import Path

import pytest
import torch

from llgbm.errors import InputError
from llgbm.files import hash_file, hash_json, hash_tensors, read_json, write_bytes, write_json, write_text


def test_write_replaces_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError, match="bytes"):
        write_bytes(path, "text")  # type: ignore[arg-type]
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_read_json_names_file_and_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.json: no such file"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad.json: not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_hash_json_ignores_key_order_but_not_type() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 1.0})


def test_hash_file_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_tensor_hash_covers_name_dtype_shape_and_bytes_but_no_order() -> None:
    a, b = torch.arange(6.0).view(2, 3), torch.tensor(1.5, dtype=torch.bfloat16)
    reference = hash_tensors({"a": a, "b": b})
    assert hash_tensors({"b": b, "a": a.T.contiguous().T}) == reference
    changed = [
        {"a": a, "c": b},
        {"a": a.view(3, 2), "b": b},
        {"a": a.view(torch.int32), "b": b},
        {"a": a + 1e-6, "b": b},
        {"a": a},
        {"a": b, "b": a},
    ]
    assert len({reference, *(hash_tensors(tensors) for tensors in changed)}) == len(changed) + 1
    assert hash_tensors({"a": torch.empty(0)}) != hash_tensors({"a": torch.empty(0, 2)})
