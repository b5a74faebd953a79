"""The growing file of a cache's records: what is written, what a kill leaves, and what other versions left."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest

from llgbm.delta import DeltaCache
from llgbm.errors import InputError


def _saved(folder: Path, count: int = 3) -> DeltaCache:
    cache = DeltaCache(folder)
    cache.bind({"max_length": 8})
    cache.save_deltas({f"a{i}": (f"key{i}", np.full(2, i)) for i in range(count)})
    return cache


def test_storing_more_writes_a_line_each_and_leaves_the_rest(tmp_path: Path) -> None:
    cache = _saved(tmp_path, 50)
    lines, head = (tmp_path / "adapters.jsonl").read_bytes(), (tmp_path / "manifest.json").stat()
    cache.save_delta("new", np.ones(2), key="k")
    after = (tmp_path / "adapters.jsonl").read_bytes()
    assert after.startswith(lines)
    added = json.loads(after[len(lines) :])
    assert (added["path"], added["key"], added["shape"]) == ("new", "k", [2])
    assert (tmp_path / "manifest.json").stat() == head
    assert len(DeltaCache(tmp_path).get_all_deltas()) == 51


def test_one_object_sees_what_another_wrote(tmp_path: Path) -> None:
    one, two = DeltaCache(tmp_path), DeltaCache(tmp_path)
    two.save_delta("a", np.zeros(2), key="first")
    one.save_delta("b", np.ones(2))
    assert set(one.manifest["adapters"]) == {"a", "b"}
    two.bind({"max_length": 8})
    one.save_delta("c", np.ones(2))
    assert one.manifest["config"] == {"max_length": 8}
    two.save_delta("a", np.ones(2), key="second")
    assert two.held({"a": "second", "b": "other"}) == {"a"}
    assert two.get_delta("a", "first") is None


@pytest.mark.parametrize("torn", [b'{"path": "b", "ke', b"\xff\xfe", b"{}"])
def test_a_line_that_a_kill_left_unfinished_is_not_read_and_goes(tmp_path: Path, torn: bytes) -> None:
    _saved(tmp_path)
    file = tmp_path / "adapters.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    cache = DeltaCache(tmp_path)
    assert set(cache.manifest["adapters"]) == {"a0", "a1", "a2"}
    assert file.read_bytes() == whole + torn  # reading changes nothing
    cache.save_delta("b", np.ones(2))
    assert len(file.read_bytes().splitlines()) == 4
    assert set(DeltaCache(tmp_path).get_all_deltas()) == {"a0", "a1", "a2", "b"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2 is no JSON"),
        ("[]", "not the entries of a delta cache, remove it or choose another folder"),
        ('{"path": "b", "key": "k", "file": "../k", "sha256": "0", "shape": [2]}', "not the entries of a delta cache"),
        ('{"key": "k", "file": "k.safetensors", "sha256": "0", "shape": [2]}', "the delta k is of no path"),
    ],
)
def test_a_foreign_line_is_refused(tmp_path: Path, line: str, message: str) -> None:
    _saved(tmp_path, 1)
    with (tmp_path / "adapters.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=message):
        DeltaCache(tmp_path)


def test_records_in_the_manifest_itself_are_read_too(tmp_path: Path) -> None:
    """As caches had them before they had a file that grows."""
    records = _saved(tmp_path).manifest["adapters"]
    head = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**head, "adapters": records}))
    (tmp_path / "adapters.jsonl").unlink()
    cache = DeltaCache(tmp_path)
    assert set(cache.get_all_deltas()) == {"a0", "a1", "a2"}
    cache.save_delta("a1", np.ones(2), key="other")
    cache.save_base_activation(np.ones(2), {"max_length": 8})
    again = DeltaCache(tmp_path)
    assert set(again.get_all_deltas()) == {"a0", "a1", "a2"}
    assert again.get_delta("a1", "other") is not None
    assert again.get_delta("a1", "key1") is None


def test_a_folder_made_anew_is_read_anew(tmp_path: Path) -> None:
    cache = _saved(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    cache.save_delta("b", np.ones(2))
    assert set(cache.manifest["adapters"]) == set(DeltaCache(tmp_path).manifest["adapters"]) == {"b"}


def test_a_mended_delta_is_mended_for_every_path(tmp_path: Path) -> None:
    cache = _saved(tmp_path, 1)
    assert cache.held({"copy": "key0"}) == {"copy"}
    cache.save_delta("a0", np.full(2, 7.0), key="key0")
    np.testing.assert_array_equal(DeltaCache(tmp_path).get_delta("copy"), np.full(2, 7.0))


def test_a_file_that_may_not_grow_is_named_and_what_was_stored_stays(tmp_path: Path) -> None:
    cache = _saved(tmp_path, 3)
    file = tmp_path / "adapters.jsonl"
    before = file.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + before // 2, limits[1]))  # room for a part of what comes
    try:
        with pytest.raises(OSError, match=rf"File too large: '{file}'"):
            cache.save_deltas({f"b{i}": (f"other{i}", np.full(2, i)) for i in range(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {"a0", "a1", "a2"} <= set(DeltaCache(tmp_path).get_all_deltas())
    cache.save_deltas({f"b{i}": (f"other{i}", np.full(2, i)) for i in range(3)})
    assert set(DeltaCache(tmp_path).get_all_deltas()) == {"a0", "a1", "a2", "b0", "b1", "b2"}


def test_a_cache_without_a_format_is_read_and_one_of_another_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    _saved(tmp_path)
    manifest = tmp_path / "manifest.json"
    head = json.loads(manifest.read_text())
    assert head.pop("format") == 1
    manifest.write_text(json.dumps(head))
    assert set(DeltaCache(tmp_path).get_all_deltas()) == {"a0", "a1", "a2"}
    manifest.write_text(json.dumps({"format": 2, **head}))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="format 2 is of another version of llgbm, this one reads 1"):
        DeltaCache(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
