"""Files are whole or absent, hashes are canonical."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.files import (
    cache_folder,
    hash_file,
    hash_json,
    hash_tensors,
    link_or_copy,
    names_its_faults,
    read_json,
    read_text,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)
from llgbm.probes import load_probes


def test_write_replaces_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_whole_or_absent_and_the_first_of_two_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(TypeError, match="not NoneType"), whole_folder(folder) as temporary:
        (temporary / "a").write_text(None)  # type: ignore[arg-type]
    assert not list(folder.parent.iterdir())
    with whole_folder(folder) as second, whole_folder(folder) as first:
        for temporary, text in ((first, "first"), (second, "second")):
            (temporary / "deep").mkdir()
            (temporary / "deep" / "a").write_text(text)
        assert not folder.exists()
    assert (folder / "deep" / "a").read_text() == "first"
    assert list(folder.parent.iterdir()) == [folder]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"), whole_folder(tmp_path / "file"):
        pass


def test_the_cache_lies_where_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/llgbm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "llgbm"


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "maximum recursion depth"),
        ("9" * 5000, "integer string conversion"),
        ("", "not valid JSON (Expecting value at column 1)"),
        ('{"a": 1,\n "b"}', "not valid JSON (Expecting ':' delimiter at line 2)"),
    ],
)
def test_json_that_cannot_be_read_is_bad_input(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=rf"a\.json: .*{re.escape(said)}"):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """In every kind of text file that people write: JSON, JSON lines, YAML, plain text."""
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    (tmp_path / "a.json").write_text(mark + '{"a": 1}')
    (tmp_path / "a.jsonl").write_text(mark + '{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "a.yaml").write_text(mark + "seed: 3\n")
    (tmp_path / "a.txt").write_text(mark + "one\ntwo\n")
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert load_probes(str(tmp_path / "a.jsonl")).texts == ("one", "two")
    assert ExperimentConfig.load(tmp_path / "a.yaml").seed == 3
    assert load_probes(str(tmp_path / "a.txt")).texts == ("one", "two")
    (tmp_path / "inside.txt").write_text("a" + mark)
    assert read_text(tmp_path / "inside.txt") == "a" + mark


def test_a_file_too_large_is_named(tmp_path: Path) -> None:
    code = f"import llgbm.files; llgbm.files.write_bytes({str(tmp_path / 'large')!r}, bytes(5000))"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, preexec_fn=limit)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: {str(tmp_path / 'large')!r}"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file() -> None:
    device = Path("/dev/full")
    full = pytest.raises(OSError, match=r"No space left on device: '/dev/full'")
    with device.open("wb", buffering=0) as file, full as caught, names_its_faults(device):
        file.write(b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_a_fault_that_a_library_only_mentions_names_the_folder(tmp_path: Path) -> None:
    fault = pytest.raises(FileNotFoundError, match=rf"No such file or directory: '{tmp_path / 'model'}'")
    with fault, whole_folder(tmp_path / "model") as folder:
        save_file({"a": torch.zeros(2)}, folder / "nowhere" / "a.safetensors")
    with pytest.raises(OSError, match=r"^no number, only words$"), names_its_faults(tmp_path):
        raise OSError("no number, only words")


def test_a_copy_in_the_place_of_a_link_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", unable)
    (tmp_path / "file").write_bytes(bytes(5000))
    link_or_copy(tmp_path / "file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(5000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "file"]


def test_a_file_is_not_linked_to_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    link_or_copy(tmp_path / "file", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"abc"


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
