"""Archives of artifacts: what goes out comes in elsewhere, and what is hostile leaves no trace."""

import hashlib
import json
import re
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llgbm.errors import InputError
from llgbm.tracking import archive as archives
from llgbm.tracking.archive import MANIFEST, export_archive, import_archive
from llgbm.tracking.store import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """suite -> zoo -> model:v2, and another model before it that is not its ancestor."""
    store = ArtifactStore(tmp_path / "store")
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (folder / name).write_text(name * 100)
    store.put("suite", folder, kind="dataset")
    store.put("zoo", folder / "a", kind="zoo", inputs=["suite"])
    store.put("model", folder / "a", kind="model", metadata={"first": True})
    store.put("model", folder / "deep" / "b", kind="model", inputs=["zoo"], aliases=["best"])
    return store


def written(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewritten(source: Path, target: Path, change: Callable[[list[tuple[zipfile.ZipInfo, bytes]]], Any]) -> Path:
    """The archive with its entries changed."""
    with zipfile.ZipFile(source) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    change(entries)
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")  # of names that stand twice
        for info, content in entries:
            archive.writestr(info, content)
    return target


def edit_manifest(edit: Callable[[dict], Any]) -> Callable[[list[tuple[zipfile.ZipInfo, bytes]]], None]:
    def change(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        values = json.loads(entries[0][1])
        edit(values)
        entries[0] = (entries[0][0], json.dumps(values).encode())

    return change


def test_an_artifact_goes_elsewhere_with_all_it_was_made_from(store: ArtifactStore, tmp_path: Path) -> None:
    out = export_archive(store, ["model:best"], tmp_path / "x.zip")
    assert [artifact.ref for artifact in out] == ["suite:v1", "zoo:v1", "model:v2"]
    other = ArtifactStore(tmp_path / "other")
    assert list(import_archive(other, tmp_path / "x.zip").values()) == out
    assert other.faults() == []
    other.checkout("suite:v1", tmp_path / "again")
    assert (tmp_path / "again" / "deep" / "b").read_text() == "deep/b" * 100
    before = written(other.folder)
    import_archive(other, tmp_path / "x.zip")
    assert written(other.folder) == before
    export_archive(other, ["model"], tmp_path / "y.zip")
    assert (tmp_path / "y.zip").read_bytes() == (tmp_path / "x.zip").read_bytes()
    with pytest.raises(InputError, match=r"x\.zip: is there already; give another file"):
        export_archive(store, ["model"], tmp_path / "x.zip")


def test_a_number_that_is_taken_becomes_the_next_and_what_was_made_from_it_says_so(store: ArtifactStore, tmp_path: Path) -> None:
    export_archive(store, ["model"], tmp_path / "x.zip")
    other = ArtifactStore(tmp_path / "other")
    (tmp_path / "mine").write_text("mine")
    other.put("zoo", tmp_path / "mine", kind="zoo")
    here = import_archive(other, tmp_path / "x.zip")
    assert {ref: artifact.ref for ref, artifact in here.items()} == {"suite:v1": "suite:v1", "zoo:v1": "zoo:v2", "model:v2": "model:v2"}
    assert here["model:v2"].inputs == ("zoo:v2",)
    assert other.faults() == []


def test_what_is_damaged_is_not_exported(store: ArtifactStore, tmp_path: Path) -> None:
    blob = store.blobs.path(store.get("model").files["b"].sha256)
    blob.chmod(0o644)
    blob.write_text("c" * blob.stat().st_size)
    with pytest.raises(InputError, match="the blob is damaged"):
        export_archive(store, ["model"], tmp_path / "out" / "x.zip")
    assert not list((tmp_path / "out").iterdir())
    record = store.folder / "artifacts" / "suite" / "1.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"inputs": ["zoo:v1"]}))
    with pytest.raises(InputError, match="something is made from itself"):
        export_archive(store, ["zoo"], tmp_path / "x.zip")


def first(values: dict) -> dict:
    return values["artifacts"][0]


def add(name: str, mode: int = 0, content: bytes = b"x", compression: int = zipfile.ZIP_STORED) -> Callable:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, compression
    return lambda entries: entries.append((info, content))


def as_link(entries: list) -> None:
    entries[1][0].external_attr = (stat.S_IFLNK | 0o777) << 16


def compressed(entries: list) -> None:
    entries[1][0].compress_type = zipfile.ZIP_DEFLATED


def damaged(entries: list) -> None:
    entries[1] = (entries[1][0], bytes(len(entries[1][1])))


def longer(entries: list) -> None:
    entries[1] = (entries[1][0], entries[1][1] + b"x")


def deep(entries: list) -> None:
    nested = b'"metadata": ' + b'{"a": ' * 600 + b"1" + b"}" * 600
    content, count = re.subn(rb'"metadata": \{\}', nested, entries[0][1], count=1)
    assert count == 1
    entries[0] = (entries[0][0], content)


HOSTILE = {
    "traversal": (add("../x"), "holds '../x', which its manifest does not name"),
    "absolute": (add("/tmp/x"), "holds '/tmp/x', which its manifest does not name"),
    "case twin": (add("MANIFEST.json"), "holds 'MANIFEST.json', which its manifest does not name"),
    "link": (as_link, "as a link, folder or device, and only files are read"),
    "compressed": (compressed, "compressed or encrypted, and an export is neither"),
    "damaged": (damaged, "with bytes of another hash"),
    "longer": (longer, "its manifest says"),
    "lacking": (lambda entries: entries.pop(), "lacks blobs/"),
    "twice": (lambda entries: entries.append(entries[1]), "holds blobs/[0-9a-f]{64} twice"),
    "no manifest": (lambda entries: entries.pop(0), r"has not one manifest\.json"),
    "two manifests": (lambda entries: entries.append(entries[0]), r"has not one manifest\.json"),
    "no JSON": (lambda entries: entries.__setitem__(0, (entries[0][0], b"{")), "not valid JSON"),
    "no text": (lambda entries: entries.__setitem__(0, (entries[0][0], b"\xff")), "no archive of artifacts, or a damaged one"),
    "list": (lambda entries: entries.__setitem__(0, (entries[0][0], b"[]")), "must be a mapping"),
    "format": (edit_manifest(lambda values: values.update(format=2)), "has format 2, and 1 is read"),
    "name": (edit_manifest(lambda values: first(values).update(name="../x")), "holds the separator"),
    "version": (edit_manifest(lambda values: first(values).update(version=10**9)), "higher than 1000000"),
    "path": (edit_manifest(lambda values: first(values)["files"].update({"../x": first(values)["files"]["a"]})), "is a step in a path"),
    "digest": (edit_manifest(lambda values: first(values)["files"]["a"].update(sha256="../x")), "is no SHA-256"),
    "file twins": (edit_manifest(lambda values: first(values)["files"].update(A=first(values)["files"]["a"])), "differ only by case"),
    "inside": (
        edit_manifest(lambda values: first(values)["files"].update({"a/c": first(values)["files"]["a"]})),
        "the file 'a' and another inside it",
    ),
    "name twins": (edit_manifest(lambda values: values["artifacts"].append(first(values) | {"name": "Suite"})), "differ only by case"),
    "record twice": (edit_manifest(lambda values: values["artifacts"].append(first(values))), "has suite:v1 twice"),
    "input": (edit_manifest(lambda values: first(values).update(inputs=["model:v2"])), "'model:v2', which does not come before it"),
    "not a number": (edit_manifest(lambda values: first(values).update(metadata={"a": float("nan")})), "that cannot be kept"),
    "surrogate": (edit_manifest(lambda values: first(values).update(kind="\ud800")), "that cannot be kept|half of a surrogate"),
    "deep": (deep, "has a record of suite:v1 that cannot be kept"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_hostile_is_refused_and_nothing_written(store: ArtifactStore, tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    export_archive(store, ["model"], tmp_path / "x.zip")
    bad = rewritten(tmp_path / "x.zip", tmp_path / "bad.zip", change)
    before = written(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        import_archive(ArtifactStore(tmp_path / "other"), bad)
    assert "\n" not in str(refusal.value)
    assert written(tmp_path) == before
    assert not (tmp_path / "other").exists()


def test_a_twin_of_a_name_here_is_refused_before_anything_is_written(store: ArtifactStore, tmp_path: Path) -> None:
    export_archive(store, ["model"], tmp_path / "x.zip")
    other = ArtifactStore(tmp_path / "other")
    other.put("Model", tmp_path / "source" / "a")
    before = written(tmp_path)
    with pytest.raises(InputError, match="differ only by case"):
        import_archive(other, tmp_path / "x.zip")
    assert written(tmp_path) == before


def test_bombs_are_not_read(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_archive(store, ["model"], tmp_path / "x.zip")
    monkeypatch.setattr(archives, "MOST_MANIFEST", 100)
    with pytest.raises(InputError, match=r"has a manifest of [0-9]+ bytes, at most 100 are read"):
        import_archive(ArtifactStore(tmp_path / "other"), tmp_path / "x.zip")


def test_entries_that_share_their_bytes_are_a_bomb(tmp_path: Path) -> None:
    """Both entries' headers say 9,000,000 bytes, and the file holds fewer than 1,000."""
    size, digests = 9_000_000, [hashlib.sha256(bytes([i])).hexdigest() for i in range(2)]
    files = {str(i): {"sha256": digest, "size": size} for i, digest in enumerate(digests)}
    manifest = {"format": 1, "artifacts": [{"name": "a", "version": 1, "kind": "file", "files": files}]}
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr(MANIFEST, json.dumps(manifest))
        for digest in digests:
            archive.writestr(f"blobs/{digest}", b"x")
        for info in archive.infolist()[1:]:
            info.file_size = info.compress_size = size
    with pytest.raises(InputError, match="is smaller than what it says it holds"):
        import_archive(ArtifactStore(tmp_path / "other"), bomb)


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.zip: no such file"):
        import_archive(ArtifactStore(tmp_path / "other"), tmp_path / "x.zip")
    (tmp_path / "x.zip").write_text("text")
    with pytest.raises(InputError, match="no archive of artifacts, or a damaged one"):
        import_archive(ArtifactStore(tmp_path / "other"), tmp_path / "x.zip")


def test_an_archive_without_its_beginning_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    export_archive(store, ["model"], tmp_path / "x.zip")
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes()[10:])
    with pytest.raises(InputError, match=r"says manifest\.json lies before its beginning|no archive of artifacts, or a damaged one"):
        import_archive(ArtifactStore(tmp_path / "other"), tmp_path / "x.zip")


def cases(count: int) -> Any:
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@cases(300)
@given(data=st.data())
def test_whatever_bytes_change_it_comes_in_right_or_not_at_all(store: ArtifactStore, tmp_path: Path, data: st.DataObject) -> None:
    whole, changed, other = tmp_path / "x.zip", tmp_path / "changed.zip", tmp_path / "other"
    if not whole.exists():
        export_archive(store, ["model"], whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(st.binary(max_size=6))
        content[at : at + data.draw(st.integers(0, 6))] = new
    changed.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content) + 10))])
    before = written(tmp_path)
    try:
        here = import_archive(ArtifactStore(other), changed)
    except InputError:
        assert written(tmp_path) == before
    else:
        assert ArtifactStore(other).faults() == []
        assert all(artifact in list(ArtifactStore(other)) for artifact in here.values())
        assert all(path.startswith(str(other)) for path in written(tmp_path).keys() - before.keys())


TEXT = st.sampled_from(["", "..", "../x", "/x", "a\\b", "C:x", "NUL", "\ud800", "x" * 300, "suite", "Suite", "a/b", "v1"]) | st.text(
    max_size=9
)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5)
PLACES = [(), ("format",), ("artifacts",)] + [
    ("artifacts", i, *rest)
    for i in range(3)
    for rest in (
        (),
        ("name",),
        ("version",),
        ("kind",),
        ("files",),
        ("inputs",),
        ("metadata",),
        ("created",),
        ("files", "a"),
        ("files", "a", "size"),
    )
]


@pytest.mark.slow
@cases(300)
@given(place=st.sampled_from(PLACES), value=VALUE)
def test_whatever_the_manifest_says_it_comes_in_sound_or_not_at_all(store: ArtifactStore, tmp_path: Path, place: tuple, value: Any) -> None:
    whole, other = tmp_path / "x.zip", tmp_path / "other"
    if not whole.exists():
        export_archive(store, ["model"], whole)

    def change(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        values: Any = {"": json.loads(entries[0][1])}
        inner, path = values, ["", *place]
        for key in path[:-1]:
            inner = inner[key] if not isinstance(inner, dict) or key in inner else inner.setdefault(key, {})
        inner[path[-1]] = value
        entries[0] = (entries[0][0], json.dumps(values[""]).encode())

    rewritten(whole, tmp_path / "changed.zip", change)
    before = written(tmp_path)
    try:
        import_archive(ArtifactStore(other), tmp_path / "changed.zip")
    except InputError:
        assert written(tmp_path) == before
    else:
        assert ArtifactStore(other).faults() == []
        assert all(path.startswith(str(other)) for path in written(tmp_path).keys() - before.keys())
