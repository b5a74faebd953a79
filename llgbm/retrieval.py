"""Adapters found by what they do: an index over a delta cache. Merging what was found: `llgbm.lora.merging`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float

from llgbm.delta import DeltaCache, comparable
from llgbm.errors import InputError
from llgbm.files import hash_file, hash_json, read_json, write_bytes, write_json

INDEX_FILE, RECORD_FILE = "index.faiss", "index.json"
HNSW_NEIGHBORS, HNSW_BUILD_DEPTH, HNSW_SEARCH_DEPTH = 32, 80, 128
"""Links per entry, and entries looked at while building and searching; the source is arXiv:1603.09320."""


class AdapterIndex:
    """Cosine search over the deltas of a cache; a zero delta has cosine 0 to everything.

    Args:
        delta_cache: The cache or its folder; what is added to it later is not in this index.
        approximate: A graph (HNSW) instead of comparing with every delta: for zoos of a hundred thousand and more.

    Raises:
        InputError: The cache is empty, or its deltas differ in size.
    """

    def __init__(self, delta_cache: DeltaCache | str | Path, *, approximate: bool = False) -> None:
        cache = _opened(delta_cache)
        deltas = cache.get_all_deltas()
        if not deltas:
            raise InputError(f"{cache.cache_dir}: holds no readable deltas; 'llgbm compute-deltas --deltas {cache.cache_dir}' fills it")
        self.paths = tuple(deltas)
        """Adapter paths in the order of the index."""
        self.cache_hash = _cache_hash(cache, self.paths)
        """SHA-256 over the configuration, paths and contents that were indexed."""
        self._index = _build(_flat(cache, deltas), approximate)

    @property
    def approximate(self) -> bool:
        """Whether a graph is searched."""
        return isinstance(self._index, faiss.IndexHNSW)

    @property
    def dim(self) -> int:
        """Numbers of a flattened delta."""
        return self._index.d

    def search(self, delta: Float[np.ndarray, "..."], k: int) -> list[tuple[str, float]]:
        """The k adapters (all, if there are fewer) of highest cosine, best first, as (path, cosine).

        Raises:
            InputError: `k` is below 1, or the delta has another size, is zero, or is not finite.
        """
        if k < 1:
            raise InputError(f"k is {k}; ask for at least 1 adapter")
        query = np.asarray(delta, dtype=np.float32).reshape(1, -1)
        if query.shape[1] != self.dim:
            raise InputError(f"the delta has {query.shape[1]} numbers, the index {self.dim}; use deltas of the cache's configuration")
        if not np.isfinite(query).all() or not query.any():
            raise InputError("the delta is zero or not finite, so it has no direction; give one of an adapter that changes the base")
        cosines, rows = self._index.search(unit_rows(query), min(k, len(self.paths)))  # pyright: ignore[reportCallIssue]
        return [(self.paths[row], float(cosine)) for row, cosine in zip(rows[0], cosines[0], strict=True) if row >= 0]

    def save(self, folder: str | Path) -> None:
        """Write `index.faiss` (faiss's own format) and `index.json` (paths and hashes); the latter last, so a whole one is sound."""
        folder = Path(folder)
        (folder / RECORD_FILE).unlink(missing_ok=True)
        write_bytes(folder / INDEX_FILE, faiss.serialize_index(self._index).tobytes())
        record = {"cache_hash": self.cache_hash, "index_sha256": hash_file(folder / INDEX_FILE), "paths": list(self.paths)}
        write_json(folder / RECORD_FILE, record)

    @classmethod
    def kept(cls, folder: str | Path, delta_cache: DeltaCache | str | Path, *, approximate: bool = False) -> "AdapterIndex":
        """The index saved in a folder, if it is sound and of this kind, with what the cache has got since; else a new one, saved there.

        Adapters keep their rows, so adding some costs what these are, and for a graph their links.
        """
        cache = _opened(delta_cache)
        try:
            index = cls._saved(folder, cache)
        except InputError:
            index = None
        if index is None or index.approximate != approximate:
            index = cls(cache, approximate=approximate)
            index.save(folder)
        elif index._add_new(cache):
            index.save(folder)
        return index

    @classmethod
    def load(cls, folder: str | Path, delta_cache: DeltaCache | str | Path) -> "AdapterIndex":
        """Read a saved index of this very cache.

        Raises:
            InputError: No index there, it is damaged, or the cache has changed since.
        """
        cache = _opened(delta_cache)
        index = cls._saved(folder, cache)
        if len(index.paths) < len(cache.manifest["adapters"]):
            raise _of_another(folder, cache)
        return index

    @classmethod
    def _saved(cls, folder: str | Path, cache: DeltaCache) -> "AdapterIndex":
        """A saved index of what the cache holds, or of a part of it. InputError as `load`."""
        record, file = read_json(Path(folder) / RECORD_FILE), Path(folder) / INDEX_FILE
        if not isinstance(record, dict) or not {"cache_hash", "index_sha256", "paths"} <= record.keys():
            raise InputError(f"{folder}: {RECORD_FILE} is not that of an adapter index; build it again")
        paths = tuple(record["paths"])
        if not cache.manifest["adapters"].keys() >= set(paths) or record["cache_hash"] != _cache_hash(cache, paths):
            raise _of_another(folder, cache)
        if not file.is_file() or hash_file(file) != record["index_sha256"]:
            raise InputError(f"{file}: missing or not the bytes that were written; build the index again")
        index = cls.__new__(cls)
        index.paths, index.cache_hash = paths, record["cache_hash"]
        index._index = faiss.read_index(str(file))
        return index

    def _add_new(self, cache: DeltaCache) -> bool:
        """Add what the cache holds and the index does not; whether there was any."""
        deltas = cache.get_deltas(sorted(cache.manifest["adapters"].keys() - set(self.paths)))
        if deltas:
            self._index.add(unit_rows(_flat(cache, deltas, self.dim)))  # pyright: ignore[reportCallIssue]
            self.paths += tuple(deltas)
            self.cache_hash = _cache_hash(cache, self.paths)
        return bool(deltas)


def _of_another(folder: str | Path, cache: DeltaCache) -> InputError:
    return InputError(f"{folder}: index of another version of the cache {cache.cache_dir}; build it again")


def _flat(cache: DeltaCache, deltas: Mapping[str, Float[np.ndarray, "..."]], dim: int | None = None) -> Float[np.ndarray, "N D"]:
    """Deltas as rows. InputError when they differ in size, from each other or from what is known."""
    sizes = {delta.size: path for path, delta in deltas.items()} | ({dim: "the index"} if dim is not None else {})
    if len(sizes) > 1:
        shown = ", ".join(f"{path} has {size}" for size, path in sizes.items())
        raise InputError(f"{cache.cache_dir}: deltas of several sizes ({shown}); keep one configuration per cache")
    return np.stack([delta.reshape(-1) for delta in deltas.values()])


def _opened(cache: DeltaCache | str | Path) -> DeltaCache:
    return cache if isinstance(cache, DeltaCache) else DeltaCache(cache)


def _cache_hash(cache: DeltaCache, paths: Sequence[str] | Mapping[str, Any]) -> str:
    """SHA-256 over the configuration and the content of the deltas at these paths, from the manifest alone."""
    adapters = cache.manifest["adapters"]
    return hash_json([comparable(cache.manifest["config"]), {path: adapters[path]["sha256"] for path in paths}])


def _build(deltas: Float[np.ndarray, "N D"], approximate: bool) -> faiss.Index:
    dim = deltas.shape[1]
    if approximate:
        index = faiss.IndexHNSWFlat(dim, HNSW_NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD_DEPTH, HNSW_SEARCH_DEPTH
    else:
        index = faiss.IndexFlatIP(dim)
    index.add(unit_rows(deltas))  # pyright: ignore[reportCallIssue]
    return index


def unit_rows(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length 1, float32; zero rows stay zero."""
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.ascontiguousarray(exact / np.where(norms > 0, norms, 1), dtype=np.float32)
