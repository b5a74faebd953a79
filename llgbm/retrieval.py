"""Adapters found by what they do, and merged: an index over a delta cache, and the known ways to make one adapter of several."""

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Float
from peft.utils import merge_utils
from torch import Tensor

from llgbm.artifacts import hash_file, hash_json, read_json, write_bytes, write_json
from llgbm.delta import DeltaCache
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors, combine, truncate
from llgbm.lora.peft_io import read_adapters, target_shapes
from llgbm.zoo.base import Base

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
        deltas = {path: delta.reshape(-1) for path, delta in cache.get_all_deltas().items()}
        if not deltas:
            raise InputError(f"{cache.cache_dir}: holds no readable deltas; 'llgbm compute-deltas --output_dir {cache.cache_dir}' fills it")
        sizes = {len(delta): path for path, delta in deltas.items()}
        if len(sizes) > 1:
            shown = ", ".join(f"{path} has {size}" for size, path in sizes.items())
            raise InputError(f"{cache.cache_dir}: deltas of several sizes ({shown}); keep one configuration per cache")
        self.paths = tuple(deltas)
        """Adapter paths in the order of the index."""
        self.cache_hash = _cache_hash(cache, self.paths)
        """SHA-256 over the configuration, paths and contents that were indexed."""
        self._index = _build(np.stack(list(deltas.values())), approximate)

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
        cosines, rows = self._index.search(_unit(query), min(k, len(self.paths)))  # pyright: ignore[reportCallIssue]
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
        """The index saved in a folder if it is sound, of this kind and of the cache as it is now; else a new one, saved there."""
        try:
            index = cls.load(folder, delta_cache)
        except InputError:
            index = None
        if index is None or index.approximate != approximate:
            index = cls(delta_cache, approximate=approximate)
            index.save(folder)
        return index

    @classmethod
    def load(cls, folder: str | Path, delta_cache: DeltaCache | str | Path) -> "AdapterIndex":
        """Read a saved index of this very cache.

        Raises:
            InputError: No index there, it is damaged, or the cache has changed since.
        """
        record, file = read_json(Path(folder) / RECORD_FILE), Path(folder) / INDEX_FILE
        if not isinstance(record, dict) or not {"cache_hash", "index_sha256", "paths"} <= record.keys():
            raise InputError(f"{folder}: {RECORD_FILE} is not that of an adapter index; build it again")
        cache = _opened(delta_cache)
        if record["cache_hash"] != (found := _cache_hash(cache, cache.manifest["adapters"])):
            raise InputError(
                f"{folder}: index of another version of the cache ({record['cache_hash'][:8]}, {cache.cache_dir} is {found[:8]}); "
                "build it again"
            )
        if not file.is_file() or hash_file(file) != record["index_sha256"]:
            raise InputError(f"{file}: missing or not the bytes that were written; build the index again")
        index = cls.__new__(cls)
        index.paths, index.cache_hash = tuple(record["paths"]), record["cache_hash"]
        index._index = faiss.read_index(str(file))
        return index


@dataclass(frozen=True)
class MergeMethod:
    """A way to make one adapter of several."""

    function: Callable[..., LoRAFactors]
    """(factors of K adapters, weights [K], the options named in `takes`) -> factors of one."""
    source: str
    takes: tuple[str, ...] = ()
    """`rank` (optional) and `density` (the share of entries kept, required)."""


class AdapterMerger:
    """Merges adapters of one base.

    Args:
        base_or_shapes: The base, or module name -> (d_in, d_out) in the order of its modules.
    """

    def __init__(self, base_or_shapes: Base | Mapping[str, tuple[int, int]]) -> None:
        self.shapes = target_shapes(base_or_shapes.model, "all-linear") if isinstance(base_or_shapes, Base) else dict(base_or_shapes)

    def merge(
        self,
        adapters: LoRAFactors | Sequence[str | Path],
        weights: Float[Tensor, " K"] | Sequence[float],
        method: str = "product",
        *,
        density: float | None = None,
        rank: int | None = None,
        seed: int = 0,
    ) -> LoRAFactors:
        """One adapter of several.

        Args:
            adapters: Factors of K adapters, or paths of K.
            weights: One per adapter; they need not sum to 1 and may be negative.
            method: A name of METHODS.
            density: Share of entries that pruning keeps, in (0, 1]; for the methods that prune, and required there.
            rank: Of the result; for `product` (default: the sum of the ranks, exact) and `svd` (default: the largest rank).
            seed: Of the random pruning of dare; torch's global generator is left as it was.

        Returns:
            K = 1, scaling 1, on the CPU.

        Raises:
            InputError: Unknown method, an option that it does not take or lacks, not one finite weight per adapter, modules that the
                base has not, or different ranks or targets under a method that adds A and B entry by entry.

        Source:
            PEFT's `add_weighted_adapter`, same numbers (for dare: from the same state of the generator once PEFT has made its new
            adapter). Departs from it for one adapter, where PEFT takes `linear` whatever was asked.
        """
        options = _checked_options(method, {"density": density, "rank": rank})
        factors = self._fitted(adapters if isinstance(adapters, LoRAFactors) else read_adapters(adapters))
        scales = torch.as_tensor(weights, dtype=torch.float32).cpu()
        if scales.shape != (factors.n_adapters,) or not bool(torch.isfinite(scales).all()):
            raise InputError(f"weights {scales.tolist()} for {factors.n_adapters} adapters; give one finite weight per adapter")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return METHODS[method].function(factors, scales, **options)

    def _fitted(self, factors: LoRAFactors) -> LoRAFactors:
        """The touched modules in the base's order, which is the order in which PEFT draws random numbers."""
        touched = {name: shape for name, shape in factors.shapes.items() if any(factors.ranks[name])}
        if not touched:
            raise InputError("no adapters to merge; give at least one that touches a module")
        for name, shape in touched.items():
            if self.shapes.get(name) != shape:
                raise InputError(f"{name} is {shape} (d_in, d_out), the base has {self.shapes.get(name)}; merge adapters of one base")
        names = [name for name in self.shapes if name in touched]
        a, b, scaling = ({name: part[name] for name in names} for part in (factors.a, factors.b, factors.scaling))
        return LoRAFactors(a, b, scaling, {name: factors.ranks[name] for name in names}).to("cpu")


def _product(factors: LoRAFactors, weights: Tensor, rank: int | None = None) -> LoRAFactors:
    """Exactly sum_k weights[k] * scaling_k B_k A_k, or the nearest adapter of a smaller rank."""
    combined = combine(factors, weights)
    return combined if rank is None else truncate(combined, rank)


def _svd(factors: LoRAFactors, weights: Tensor, rank: int | None = None) -> LoRAFactors:
    """The product, cut to the largest rank of the adapters unless another is given."""
    return _product(factors, weights, max(r for ranks in factors.ranks.values() for r in ranks) if rank is None else rank)


def _entrywise(function: Callable[..., Tensor]) -> Callable[..., LoRAFactors]:
    """PEFT's way to use a merge of full weights on factors: on all A and on all B, each with the root of weight * scaling.

    The sign of a negative weight goes to A. The product of two sums is not the sum of products: cross terms A_i B_j remain.
    """

    def merge(factors: LoRAFactors, weights: Tensor, **options: Any) -> LoRAFactors:
        _check_alike(factors)
        merged = LoRAFactors({}, {}, {}, {})
        for name, (rank, *_) in factors.ranks.items():
            scaled = weights * factors.scaling[name]
            root, sign = scaled.abs().sqrt(), torch.where(scaled >= 0, 1.0, -1.0)
            a, b = factors.a[name][:, :rank], factors.b[name][:, :, :rank]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The density 1")  # keeping everything is a fair wish
                merged.a[name] = function(list(a), root * sign, **options)[None].to(a.dtype)
                merged.b[name] = function(list(b), root, **options)[None].to(b.dtype)
            merged.scaling[name], merged.ranks[name] = torch.ones(1), (rank,)
        return merged

    return merge


PEFT_DOCS = "https://huggingface.co/docs/peft/developer_guides/model_merging"
METHODS: dict[str, MergeMethod] = {
    "product": MergeMethod(_product, "exact weighted sum of weight changes; task arithmetic, https://arxiv.org/abs/2212.04089", ("rank",)),
    "cat": MergeMethod(combine, PEFT_DOCS),
    "svd": MergeMethod(_svd, PEFT_DOCS, ("rank",)),
    "linear": MergeMethod(_entrywise(merge_utils.task_arithmetic), "https://arxiv.org/abs/2212.04089"),
    "ties": MergeMethod(_entrywise(merge_utils.ties), "https://arxiv.org/abs/2306.01708", ("density",)),
    "dare_linear": MergeMethod(_entrywise(merge_utils.dare_linear), "https://arxiv.org/abs/2311.03099", ("density",)),
    "dare_ties": MergeMethod(_entrywise(merge_utils.dare_ties), "https://arxiv.org/abs/2311.03099", ("density",)),
    "magnitude_prune": MergeMethod(_entrywise(merge_utils.magnitude_prune), PEFT_DOCS, ("density",)),
}
"""Name -> method; `product`, `cat` and `svd` take adapters of any ranks and targets, the others need them alike."""


def _checked_options(method: str, options: Mapping[str, float | int | None]) -> dict[str, float | int]:
    """The options that were given, once they are those that the method takes."""
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=2, cutoff=0.5)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise InputError(f"merge method {method!r} is unknown{hint}; methods: {', '.join(METHODS)}")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - set(METHODS[method].takes):
        takers = ", ".join(other for other, entry in METHODS.items() if name in entry.takes)
        raise InputError(f"merge method {method} takes no {name} ({given[name]}); leave it out, or use one of {takers}")
    density = given.get("density")
    if "density" in METHODS[method].takes and (density is None or not 0 < density <= 1):
        raise InputError(f"merge method {method} needs a density above 0 and at most 1, the share of entries kept; it is {density}")
    return given


def _check_alike(factors: LoRAFactors) -> None:
    for name, ranks in factors.ranks.items():
        if len(set(ranks)) > 1:
            raise InputError(
                f"{name}: the adapters have ranks {', '.join(map(str, ranks))} (0: not a target), but this merge method adds A and B entry "
                "by entry; use product, cat or svd"
            )


def _opened(cache: DeltaCache | str | Path) -> DeltaCache:
    return cache if isinstance(cache, DeltaCache) else DeltaCache(cache)


def _cache_hash(cache: DeltaCache, paths: Sequence[str] | Mapping[str, Any]) -> str:
    """SHA-256 over the configuration and the content of the deltas at these paths, from the manifest alone."""
    adapters = cache.manifest["adapters"]
    return hash_json([cache.manifest["config"], {path: adapters[path]["sha256"] for path in paths}])


def _build(deltas: Float[np.ndarray, "N D"], approximate: bool) -> faiss.Index:
    dim = deltas.shape[1]
    if approximate:
        index = faiss.IndexHNSWFlat(dim, HNSW_NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD_DEPTH, HNSW_SEARCH_DEPTH
    else:
        index = faiss.IndexFlatIP(dim)
    index.add(_unit(deltas))  # pyright: ignore[reportCallIssue]
    return index


def _unit(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length 1, float32; zero rows stay zero."""
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.ascontiguousarray(exact / np.where(norms > 0, norms, 1), dtype=np.float32)
