"""What an online learner has met: vectors with items, searched by likeness, kept version by version.

A version in the artifact store lists pieces, two files each: `00000000.safetensors` (vectors) and `00000000.jsonl` (items). A snapshot
writes one piece, of what is new, and names the pieces before it, which lie in the store once. The index is built of the vectors
when a version is restored: a flat index holds nothing else, and faiss reads its own files without checking them.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llgbm.checking import RECORD, Integer, read_as
from llgbm.errors import InputError
from llgbm.files import hash_json, parse_json, write_bytes, write_text
from llgbm.names import path_part
from llgbm.retrieval import unit_rows
from llgbm.tracking.process import timestamp
from llgbm.tracking.store import Artifact, ArtifactStore, StoredFile

KIND, MOST_NUMBERS = "experience", 1 << 20
"""Of artifacts, and of a vector."""


@dataclass(frozen=True)
class Neighbor:
    """One of the nearest."""

    position: int
    """In the order of adding, from 0."""
    item: dict[str, Any]
    cosine: float


@checked(frozen=True, config=RECORD)
class _Made:
    """What a version's metadata hold."""

    dim: Annotated[Integer, Field(ge=1, le=MOST_NUMBERS)]


class ExperienceBuffer:
    """Vectors with items, nearest by cosine; a zero vector has cosine 0 to everything.

    Args:
        store: Where versions are kept.
        name: Versions are `buffer-<name>:v1` and so on.
        dim: Numbers of a vector.

    Raises:
        InputError: The name cannot be an artifact's, or the dimension is out of range.
    """

    def __init__(self, store: ArtifactStore, name: str, dim: int) -> None:
        if not 1 <= dim <= MOST_NUMBERS:
            raise InputError(f"dim is {dim}; give how many numbers a vector has, from 1 to {MOST_NUMBERS}")
        self.store, self.name, self.dim = store, path_part(f"buffer-{name}", "buffer"), dim
        self.items: list[dict[str, Any]] = []
        self.version: Artifact | None = None
        """The one whose items these are, but for what is new."""
        self._index = faiss.IndexFlatIP(dim)
        self._new: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.items)

    def add(self, vectors: Float[np.ndarray, "N D"], items: Sequence[Mapping[str, Any]]) -> None:
        """Put in vectors and what belongs to each.

        Raises:
            InputError: Numbers of the two differ, a vector has another size or is not finite, or an item is no JSON object; none is added.
        """
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if rows.shape != (len(items), self.dim):
            raise InputError(f"{self.name}: {rows.shape[0]} vectors of {rows.shape[1]} numbers for {len(items)} items, dim is {self.dim}")
        if not np.isfinite(rows).all():
            raise InputError(f"{self.name}: a vector is not finite; leave it out")
        kept = [_as_json(item, self.name) for item in items]
        self._put(rows, kept)
        self._new.append(rows)

    def search(self, vector: Float[np.ndarray, " D"], k: int) -> list[Neighbor]:
        """The k nearest (all, if there are fewer), best first. InputError for a vector of another size or without direction, or k < 1."""
        query = np.asarray(vector, dtype=np.float32).reshape(1, -1)
        if k < 1 or query.shape[1] != self.dim or not np.isfinite(query).all() or not query.any():
            raise InputError(f"{self.name}: search for k from 1 and a finite vector of {self.dim} numbers that is not zero")
        cosines, rows = self._index.search(unit_rows(query), min(k, len(self)))  # pyright: ignore[reportCallIssue]
        return [Neighbor(int(row), self.items[row], float(cosine)) for row, cosine in zip(rows[0], cosines[0], strict=True)]

    def snapshot(self, aliases: Sequence[str] = ()) -> Artifact:
        """Keep what is new as one more piece; without anything new, the version is the one there was. InputError for an empty buffer."""
        before = self.version
        if self._new:
            files = dict(before.files if before else {})
            files |= self._write(f"{len(files) // 2:08}", np.concatenate(self._new))
            inputs = (before.ref,) if before else ()
            made, created = {"items": len(self), "dim": self.dim}, timestamp()
            self.version, self._new = self.store.adopt(Artifact(self.name, 1, KIND, files, inputs, made, created)), []
        if self.version is None:
            raise InputError(f"{self.name}: holds nothing to keep; add something first")
        for alias in aliases:
            self.store.alias(self.version.ref, alias)
        return self.version

    @classmethod
    def restore(cls, store: ArtifactStore, ref: str) -> "ExperienceBuffer":
        """The buffer as a version has it, from which it goes on.

        Raises:
            InputError: There is no such version, it is none of a buffer, or a piece is gone or damaged.
        """
        artifact = store.get(ref)
        pieces = sorted(path.removesuffix(".jsonl") for path in artifact.files if path.endswith(".jsonl"))
        whole = {f"{piece}{suffix}" for piece in pieces for suffix in (".jsonl", ".safetensors")} == artifact.files.keys()
        if artifact.kind != KIND or not artifact.name.startswith("buffer-") or not whole:
            raise InputError(f"{artifact.ref}: is no version of a buffer; give one that a snapshot made")
        dim = read_as(_Made, artifact.metadata, artifact.ref).dim
        buffer = cls(store, artifact.name.removeprefix("buffer-"), dim)
        for piece in pieces:
            buffer._put(*_read_piece(store, artifact, piece, dim))
        buffer.version = artifact
        return buffer

    def _put(self, rows: Float[np.ndarray, "N D"], items: Sequence[dict[str, Any]]) -> None:
        self._index.add(unit_rows(rows))  # pyright: ignore[reportCallIssue]
        self.items += items

    def _write(self, piece: str, rows: Float[np.ndarray, "N D"]) -> dict[str, StoredFile]:
        lines = "".join(json.dumps(item) + "\n" for item in self.items[-len(rows) :])
        with tempfile.TemporaryDirectory() as folder:
            write_bytes(Path(folder) / f"{piece}.safetensors", save({"vectors": rows}))
            write_text(Path(folder) / f"{piece}.jsonl", lines)
            return {path.name: StoredFile(*self.store.blobs.put(path)) for path in sorted(Path(folder).iterdir())}


@contextmanager
def experience(store: ArtifactStore, name: str, dim: int) -> Iterator[ExperienceBuffer]:
    """The newest version of a buffer, or a new one, to work with; what is new is kept at the end, also where the work failed."""
    there = f"buffer-{name}" in store.names()
    buffer = ExperienceBuffer.restore(store, f"buffer-{name}") if there else ExperienceBuffer(store, name, dim)
    if buffer.dim != dim:
        raise InputError(f"{buffer.name}: holds vectors of {buffer.dim} numbers, dim is {dim}; choose another name")
    try:
        yield buffer
    finally:
        if len(buffer):
            buffer.snapshot()


def _read_piece(store: ArtifactStore, artifact: Artifact, piece: str, dim: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Vectors and items of a piece, each byte checked by the store and each value here: an archive may bring anything."""
    where, (vectors, lines) = f"{artifact.ref}/{piece}", (BytesIO(), BytesIO())
    store.blobs.copy(artifact.files[f"{piece}.safetensors"].sha256, vectors)
    store.blobs.copy(artifact.files[f"{piece}.jsonl"].sha256, lines)
    try:
        rows = load(vectors.getvalue())["vectors"]
        text = lines.getvalue().decode()
    except (SafetensorError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: holds no vectors or no items; restore another version") from error
    items = [parse_json(line, where) for line in text.splitlines()]
    whole = rows.shape == (len(items), dim) and rows.dtype == np.float32 and np.isfinite(rows).all()
    if not whole or not all(isinstance(item, dict) for item in items):
        raise InputError(
            f"{where}: {rows.shape} vectors for {len(items)} items are not {dim} finite numbers for each; restore another version"
        )
    return rows, items


def _as_json(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        hash_json(dict(item))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: an item is no JSON object ({error}); give numbers, strings, lists and mappings") from error
    return dict(item)
