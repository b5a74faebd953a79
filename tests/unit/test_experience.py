"""Experience is searched by likeness, kept piece by piece, and any version comes back."""

import json
from pathlib import Path

import numpy as np
import pytest

from llgbm.errors import InputError
from llgbm.experience import MOST_NUMBERS, ExperienceBuffer, experience
from llgbm.tracking.archive import export_archive, import_archive
from llgbm.tracking.lineage import lineage, lineage_faults
from llgbm.tracking.store import ArtifactStore

DIM = 8


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def items(count: int, start: int = 0) -> list[dict]:
    return [{"step": start + k, "text": f"\u2028 {start + k}"} for k in range(count)]


def bytes_in(store: ArtifactStore) -> int:
    return sum(path.stat().st_size for path in store.blobs.folder.glob("*/*"))


def test_any_version_comes_back_and_only_what_is_new_is_written(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    buffer, rows = ExperienceBuffer(store, "mine", DIM), vectors(1000)
    buffer.add(rows[:900], items(900))
    first, before = buffer.snapshot(["start"]), bytes_in(store)
    buffer.add(rows[900:], items(100, 900))
    assert buffer.snapshot() == buffer.snapshot()
    assert bytes_in(store) - before < before / 5
    second = store.get("buffer-mine")
    assert (second.ref, second.inputs, second.metadata["items"]) == ("buffer-mine:v2", (first.ref,), 1000)
    for ref, count in (("buffer-mine:start", 900), ("buffer-mine:v2", 1000)):
        again = ExperienceBuffer.restore(store, ref)
        assert again.items == items(1000)[:count]
        for query in vectors(5, seed=1):
            cosines = rows[:count] @ query / np.linalg.norm(rows[:count], axis=1) / np.linalg.norm(query)
            found = again.search(query, 7)
            assert [near.position for near in found] == np.argsort(-cosines)[:7].tolist()
            assert found[0].item == again.items[found[0].position]
    branch = ExperienceBuffer.restore(store, first.ref)
    branch.add(rows[:1], items(1))
    assert branch.snapshot().inputs == (first.ref,)
    assert lineage_faults(lineage(store)) == []
    assert store.faults() == []


def test_work_with_a_buffer_is_kept_also_where_it_fails(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    with experience(store, "mine", DIM):
        pass
    assert store.names() == []
    with pytest.raises(ValueError, match="stopped"), experience(store, "mine", DIM) as buffer:  # noqa: PT012
        buffer.add(vectors(3), items(3))
        raise ValueError("stopped")
    with experience(store, "mine", DIM) as buffer:
        assert len(buffer) == 3
    assert len(store.versions("buffer-mine")) == 1
    with (
        pytest.raises(InputError, match="buffer-mine: holds vectors of 8 numbers, dim is 9; choose another name"),
        experience(store, "mine", 9),
    ):
        pass


def test_a_buffer_travels_in_an_archive(tmp_path: Path) -> None:
    here, there = ArtifactStore(tmp_path / "here"), ArtifactStore(tmp_path / "there")
    with experience(here, "mine", DIM) as buffer:
        buffer.add(vectors(3), items(3))
    export_archive(here, ["buffer-mine"], tmp_path / "mine.zip")
    import_archive(there, tmp_path / "mine.zip")
    assert ExperienceBuffer.restore(there, "buffer-mine").items == items(3)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    buffer = ExperienceBuffer(store, "mine", DIM)
    for wrong, said in (
        (lambda: ExperienceBuffer(store, "a/b", DIM), "buffer 'buffer-a/b' holds the separator '/'"),
        (lambda: ExperienceBuffer(store, "a", 0), f"dim is 0; give how many numbers a vector has, from 1 to {MOST_NUMBERS}"),
        (lambda: buffer.add(vectors(2), items(1)), "2 vectors of 8 numbers for 1 items, dim is 8"),
        (lambda: buffer.add(vectors(1)[:, :4], items(1)), "1 vectors of 4 numbers for 1 items, dim is 8"),
        (lambda: buffer.add(vectors(1) * np.nan, items(1)), "a vector is not finite; leave it out"),
        (lambda: buffer.add(vectors(1), [{"x": object()}]), "an item is no JSON object"),
        (lambda: buffer.search(np.zeros(DIM), 1), "search for k from 1 and a finite vector of 8 numbers that is not zero"),
        (lambda: buffer.search(np.ones(DIM), 0), "search for k from 1"),
        (lambda: buffer.snapshot(), "holds nothing to keep; add something first"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()
    assert len(buffer) == 0


def test_versions_that_are_none_are_refused(tmp_path: Path) -> None:
    store, folder = ArtifactStore(tmp_path / "store"), tmp_path / "pieces"
    with experience(store, "mine", DIM) as buffer:
        buffer.add(vectors(3), items(3))
    store.checkout("buffer-mine", folder)
    piece = folder / "00000000.jsonl"

    def put(made: dict, name: str = "buffer-other") -> str:
        return store.put(name, folder, "experience", metadata=made).ref

    def refused(ref: str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            ExperienceBuffer.restore(store, ref)

    refused(put({"dim": DIM}, "other"), "is no version of a buffer; give one that a snapshot made")
    refused(put({}), "dim is missing")
    refused(put({"dim": 10**9}), f"dim must be at most {MOST_NUMBERS}")
    refused(put({"dim": 4}), r"\(3, 8\) vectors for 3 items are not 4 finite numbers for each; restore another version")
    for text, said in (("{}\n{}\n", r"\(3, 8\) vectors for 2 items"), ("[]\n" * 3, "vectors for 3 items"), ("{\n" * 3, "not valid JSON")):
        piece.write_text(text)
        refused(put({"dim": DIM}), said)
    piece.write_text("".join(json.dumps(item) + "\n" for item in items(3)))
    (folder / "00000000.safetensors").write_bytes(b"no tensors")
    refused(put({"dim": DIM}), "00000000: holds no vectors or no items; restore another version")
    piece.rename(folder / "00000001.jsonl")
    refused(put({"dim": DIM}), "is no version of a buffer")
    blob = store.blobs.path(store.get("buffer-mine").files["00000000.safetensors"].sha256)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1])
    refused("buffer-mine", "the blob is damaged, its bytes have another hash")
