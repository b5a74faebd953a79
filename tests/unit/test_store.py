"""The artifact store: versions, aliases, inputs; whole or absent, checked when read, many writers at once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llgbm.errors import InputError
from llgbm.tracking.blobs import BlobStore
from llgbm.tracking.store import ArtifactStore

WRITER = """
import sys
from pathlib import Path
from llgbm.tracking.store import ArtifactStore
store, sources, who, count = ArtifactStore(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
for i in range(count):
    path = sources / f"{who}-{i}.bin"
    path.write_bytes(f"{who} {i // 2}".encode() * 3000)
    print(store.put("shared" if i % 3 == 0 else f"own-{who}", path, metadata={"from": f"{who}-{i}"}).ref, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def writer(store: ArtifactStore, sources: Path, who: str, count: int) -> subprocess.Popen:
    sources.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WRITER, str(store.folder), str(sources), who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_versions_count_up_and_the_same_again_is_the_same(store: ArtifactStore, tmp_path: Path) -> None:
    one = store.put("model-a", write(tmp_path / "a.txt", "one"), kind="model")
    assert (one.ref, one.kind, one.size) == ("model-a:v1", "model", 3)
    assert store.put("model-a", tmp_path / "a.txt", kind="model") == one
    assert store.put("model-a", write(tmp_path / "a.txt", "two"), kind="model").ref == "model-a:v2"
    assert store.put("model-a", tmp_path / "a.txt", kind="model", metadata={"steps": 3}).ref == "model-a:v3"
    assert [artifact.ref for artifact in store] == ["model-a:v1", "model-a:v2", "model-a:v3"]
    assert store.get("model-a").ref == store.get("model-a:latest").ref == "model-a:v3"
    assert store.get("model-a:v1") == one


def test_equal_bytes_lie_once_and_are_read_only(store: ArtifactStore, tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        write(tmp_path / "folder" / name, "same")
    artifact = store.put("data", tmp_path / "folder")
    assert set(artifact.files) == {"a", "b/c"}
    blobs = [path for path in store.blobs.folder.rglob("*") if path.is_file()]
    assert len(blobs) == 1
    assert blobs[0].stat().st_mode & 0o222 == 0


def test_what_was_put_comes_back_and_replaces_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    write(tmp_path / "folder" / "b" / "c", "ä\n")
    store.put("data", tmp_path / "folder")
    store.checkout("data:v1", tmp_path / "again")
    assert (tmp_path / "again" / "b" / "c").read_text() == "ä\n"
    with pytest.raises(InputError, match="c: is there already; give another folder"):
        store.checkout("data:v1", tmp_path / "again")


def test_aliases_move(store: ArtifactStore, tmp_path: Path) -> None:
    for text in ("one", "two"):
        store.put("model", write(tmp_path / "a", text), aliases=["best"])
    assert store.get("model:best").version == 2
    store.alias("model:v1", "best")
    assert store.get("model:best").version == 1
    for alias, message in (("latest", "is a version's own name"), ("v3", "is a version's own name"), ("../x", "holds the separator")):
        with pytest.raises(InputError, match=message):
            store.alias("model", alias)
        with pytest.raises(InputError, match=message):
            store.put("model", write(tmp_path / "a", "three"), aliases=[alias])
    assert len(list(store)) == 2


def test_inputs_are_pinned_to_versions_and_must_be_there(store: ArtifactStore, tmp_path: Path) -> None:
    store.put("zoo", write(tmp_path / "a"))
    assert store.put("model", tmp_path / "a", inputs=["zoo"]).inputs == ("zoo:v1",)
    with pytest.raises(InputError, match="no artifact zoo:v2; of zoo there are v1"):
        store.put("model", tmp_path / "a", inputs=["zoo:v2"])
    with pytest.raises(InputError, match="no artifact suite; no suite at all"):
        store.get("suite")
    with pytest.raises(InputError, match="zoo:v1 is an input of model:v1; remove these first"):
        store.remove("zoo:v1")


@pytest.mark.parametrize("name", ["", "../x", "/tmp/x", "a/b", "NUL", "a\0b", "x" * 300])
def test_names_stay_inside(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    write(tmp_path / "a")
    for call in (lambda: store.put(name, tmp_path / "a"), lambda: store.get(name), lambda: store.aliases(name)):
        with pytest.raises(InputError, match=r"artifact .* (is|holds) "):
            call()
    assert not store.folder.exists()


def test_what_cannot_be_kept_is_named(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        store.put("a", tmp_path / "nowhere")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(InputError, match="empty: holds no file to keep"):
        store.put("a", tmp_path / "empty")
    write(tmp_path / "linked" / "a")
    (tmp_path / "linked" / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="link: is a link, which an artifact cannot hold"):
        store.put("a", tmp_path / "linked")
    (tmp_path / "itself").symlink_to(tmp_path / "linked")
    with pytest.raises(InputError, match="itself: is a link; give what it points to"):
        store.put("a", tmp_path / "itself")
    for name in ("A", "a"):
        write(tmp_path / "twins" / name)
    with pytest.raises(InputError, match="differ only by case"):
        store.put("a", tmp_path / "twins")
    store.put("Model", write(tmp_path / "f"))
    with pytest.raises(InputError, match="differ only by case"):
        store.put("model", tmp_path / "f")


def test_a_flipped_byte_is_found_wherever_it_is(store: ArtifactStore, tmp_path: Path) -> None:
    rng = random.Random(0)
    for i in range(100):
        write(tmp_path / "many" / str(i), f"{i} " * rng.randint(1, 200))
    artifact = store.put("many", tmp_path / "many")
    assert store.faults() == []
    for path, file in artifact.files.items():
        blob = store.blobs.path(file.sha256)
        content = bytearray(blob.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        blob.chmod(0o644)
        blob.write_bytes(content)
        with pytest.raises(InputError, match="is damaged, its bytes have another hash"):
            store.blobs.take(file.sha256, tmp_path / "out" / path)
        assert not (tmp_path / "out" / path).exists()
    assert len(store.faults()) == 100


def test_faults_say_where(store: ArtifactStore, tmp_path: Path) -> None:
    zoo = store.put("zoo", write(tmp_path / "a", "zoo"))
    model = store.put("model", write(tmp_path / "a", "model"), inputs=["zoo"], aliases=["best"])
    store.blobs.path(model.files["a"].sha256).unlink()
    record = store.folder / "artifacts" / "zoo" / "1.json"
    whole = record.read_text()
    for text, message in (
        ("[]", "must be a mapping"),
        (json.dumps(json.loads(whole) | {"files": {"../../x": {"sha256": "0" * 64, "size": 1}}}), "is a step in a path"),
        (json.dumps(json.loads(whole) | {"files": {"a": {"sha256": "../../x", "size": 1}}}), "is no SHA-256"),
        (json.dumps(json.loads(whole) | {"version": 7}), "says it is zoo:v7, which its place denies"),
    ):
        record.write_text(text)
        with pytest.raises(InputError, match=message):
            store.get("zoo")
        found = {fault.where: fault.what for fault in store.faults()}
        assert message in found.pop(str(record))
        assert found.keys() == {"model:v1/a", "model:v1"}
        assert "the blob is gone" in found["model:v1/a"]
        assert found["model:v1"] == "its input zoo:v1 is not in the store"
    record.write_text(whole)
    assert store.get("zoo") == zoo
    (store.folder / "artifacts" / "model" / "1.json").unlink()
    store.put("model", write(tmp_path / "b", "other"))
    store.put("model", write(tmp_path / "b", "third"))
    store.alias("model:v2", "best")
    (store.folder / "artifacts" / "model" / "2.json").unlink()
    assert [(fault.where, fault.what) for fault in store.faults()] == [("model:best", "names v2, which is not in the store")]


def test_what_is_not_needed_goes_once_it_is_old(store: ArtifactStore, tmp_path: Path) -> None:
    for text in ("one", "two"):
        store.put("model", write(tmp_path / "a", text), aliases=["best"])
    assert store.remove("model:v2").ref == "model:v2"
    assert store.aliases("model") == {}
    assert store.collect() == (0, 0)  # too young: its artifact might still be on its way
    assert store.collect(grace_s=0) == (1, 3)
    assert store.faults() == []


def test_an_old_blob_put_again_is_young_again(store: ArtifactStore, tmp_path: Path) -> None:
    digest, _ = store.blobs.put(write(tmp_path / "a"))
    os.utime(store.blobs.path(digest), (0, 0))
    store.blobs.put(tmp_path / "a")
    assert store.blobs.collect([], grace_s=60) == (0, 0)


def test_writers_at_once_lose_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    writers = [writer(store, tmp_path / "sources", str(k), 30) for k in range(8)]
    refs = [line for process in writers for line in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in writers)
    assert len(refs) == len(set(refs)) == 8 * 30
    found = {artifact.ref: artifact.metadata["from"] for artifact in store}
    assert found.keys() == set(refs)
    assert len(set(found.values())) == 8 * 30
    assert store.faults() == []


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_torn_and_loses_nothing_acknowledged(store: ArtifactStore, tmp_path: Path) -> None:
    rng, acknowledged = random.Random(1), set()
    for trial in range(40):
        process = writer(store, tmp_path / "sources", f"w{trial}", 10_000)
        assert process.stdout is not None
        acknowledged.add(process.stdout.readline().strip())
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        acknowledged |= {line for line in process.communicate()[0].split("\n") if line}
    assert store.faults() == []
    assert acknowledged <= {artifact.ref for artifact in store}
    store.collect(grace_s=0)
    assert not list(store.blobs.folder.glob("*.tmp"))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blobs = BlobStore(write(tmp_path / "file") / "below")
    with pytest.raises(OSError, match="below"):
        blobs.put(tmp_path / "file")
