"""A folder of deltas: one safetensors file per adapter, a manifest, any number of writers.

Files are named by content, written atomically and verified on read; the manifest (`manifest.json` with the configuration, and a line of
`adapters.jsonl` for each delta) changes under a lock. So a crash at any moment, or two processes at once, leave a readable cache in which
nothing is lost.
"""

import fcntl
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llgbm.checking import RECORD, read_as
from llgbm.delta.entries import ENTRIES_FILE, DeltaRecord, Entries
from llgbm.errors import InputError, blame_memory
from llgbm.files import hash_json, read_json, write_bytes, write_json
from llgbm.names import path_part

MANIFEST = "manifest.json"
FORMAT = 1
"""Of manifest, records and files; caches written before it was named have the same."""
BASE = "base"
EMPTY: dict[str, Any] = {"format": FORMAT, "config": {}}


def _known_format(value: int) -> int:
    if value != FORMAT:
        raise ValueError(f"format {value} is of another version of llgbm, this one reads {FORMAT}")
    return value


@dataclass(frozen=True, config=RECORD)
class CacheManifest:
    """What the `manifest.json` of a cache holds."""

    config: dict[str, Any]
    format: Annotated[int, AfterValidator(_known_format)] = FORMAT
    adapters: dict[str, DeltaRecord] = Field(default_factory=dict)
    """What caches recorded here when they had no `adapters.jsonl`."""
    base: DeltaRecord | None = None


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration decides its deltas: of the base only its weights; what its tokenizer made of the probes stands beside it."""
    base = config.get(BASE)
    return {**config, BASE: base.get("hash")} if isinstance(base, Mapping) else dict(config)


def delta_key(config: Mapping[str, Any], adapter_hash: str) -> str:
    """SHA-256 over the configuration of deltas and an adapter's content: names that adapter's delta."""
    return hash_json([{k: v for k, v in comparable(config).items() if k != "probe_set"}, adapter_hash])


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first entry in which two configurations of deltas differ, with its two values; None when their deltas are of one kind."""
    left, right = comparable(one), comparable(other)
    name = next((key for key in {**left, **right} if left.get(key) != right.get(key)), None)
    return None if name is None else (name, *(_shown(config.get(name)) for config in (one, other)))


def _shown(value: Any) -> Any:
    """A base by name, dtype and hash."""
    return f"{value['name']} ({value['dtype']}, {value['hash'][:8]})" if isinstance(value, Mapping) and "hash" in value else value


class DeltaCache:
    """Deltas by adapter path.

    Args:
        cache_dir: The folder; made on the first write.

    Raises:
        InputError: The manifest is not one.
    """

    def __init__(self, cache_dir: str | Path) -> None:
        self.cache_dir = Path(cache_dir)
        self.faults: list[str] = []
        """Entries found corrupt since this object was made; they count as absent."""
        self._head: dict[str, Any] = dict(EMPTY)
        self._stamp: tuple[int, ...] | None = None
        self._entries = Entries(self.cache_dir / ENTRIES_FILE)
        self._read()

    @property
    def manifest(self) -> dict[str, Any]:
        """What is stored, as last read or written: adapters by path, and the configuration of their deltas."""
        return {**self._head, "adapters": self._entries.records}

    def bind(self, config: Mapping[str, Any]) -> None:
        """Say which configuration the deltas have; a cache holds only one.

        Raises:
            InputError: The cache was written with another.
        """
        with self._locked():
            found = self._head["config"]
            differing = difference(found, config) if found else None
            if differing is not None:
                name, here, asked = differing
                raise InputError(
                    f"{self.cache_dir}: holds deltas of another configuration ({name} is {here}, asked for {asked}); "
                    "choose another folder or remove it"
                )
            self._write_head(config=dict(config))

    def save_delta(self, adapter_path: str | Path, delta: Float[np.ndarray, "..."], key: str | None = None) -> None:
        """Store one delta as float32; `key` names its content and defaults to a hash of the path."""
        self.save_deltas({str(adapter_path): (key or hash_json(str(adapter_path)), delta)})

    def save_deltas(self, entries: Mapping[str, tuple[str, np.ndarray]]) -> None:
        """Store several deltas, path -> (key, delta); what it costs does not depend on how many are stored."""
        with self._locked():  # the files too: of two writers of one key, the same one wins in file and manifest
            records = {path: self._write(key, delta) for path, (key, delta) in entries.items()}
            written = {record["key"]: record for record in records.values()}
            same = {path: record for key, record in written.items() for path in self._entries.of_key(key)}
            self._entries.append({**same, **records})

    def get_delta(self, adapter_path: str | Path, key: str | None = None) -> Float[np.ndarray, "..."] | None:
        """The delta of one adapter, float32; None when it is absent, corrupt (see `faults`), or stored under another key."""
        record = self._entries.find(str(adapter_path))
        if record is None or (key is not None and record["key"] != key):
            return None
        return self._load(str(adapter_path), record)

    def held(self, keys: Mapping[str, str]) -> set[str]:
        """Of adapters (path -> key), those whose sound delta is stored; one stored for an equal adapter elsewhere gets this path too."""
        found = {path: next(iter(self._entries.of_key(key).values()), None) for path, key in keys.items()}
        sound = {path: record for path, record in found.items() if record is not None and self._load(path, record) is not None}
        moved = {path: record for path, record in sound.items() if self._entries.records.get(path, {}).get("key") != record["key"]}
        if moved:
            with self._locked():
                self._entries.append(moved)
        return set(sound)

    def get_all_deltas(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Adapter path -> delta of every sound entry, by path."""
        return self.get_deltas(sorted(self._entries.records))

    def get_deltas(self, paths: Iterable[str]) -> dict[str, Float[np.ndarray, "..."]]:
        """Path -> delta of those sound entries, of paths as `manifest` has them."""
        found = {path: self._load(path, self._entries.records[path]) for path in paths}
        return {path: delta for path, delta in found.items() if delta is not None}

    def save_base_activation(self, activation: Float[np.ndarray, "..."], config: Mapping[str, Any]) -> None:
        """Store the base's own states and bind the cache to their configuration."""
        self.bind(config)
        with self._locked():
            self._write_head(**{BASE: self._write(BASE, activation)})

    def get_base_activation(self) -> Float[np.ndarray, "..."] | None:
        """The base's own states, or None."""
        record = self._head.get(BASE)
        return None if record is None else self._load(BASE, record)

    def _write(self, key: str, delta: np.ndarray) -> dict[str, Any]:
        array = np.ascontiguousarray(delta, dtype=np.float32)
        if not np.isfinite(array).all():
            raise InputError(f"{self.cache_dir}: a delta with NaN or infinite values is not stored ({key[:12]})")
        content = save({"delta": array})
        file = path_part(f"{key}.safetensors", "delta")
        write_bytes(self.cache_dir / file, content)
        return {"key": key, "file": file, "sha256": hashlib.sha256(content).hexdigest(), "shape": list(array.shape)}

    def _load(self, name: str, record: Mapping[str, Any]) -> np.ndarray | None:
        path = self.cache_dir / record["file"]
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == record["sha256"]:
                return load(content)["delta"]
            fault = "its bytes are not those that were written"
        except (OSError, SafetensorError, KeyError) as error:
            blame_memory(error)
            fault = f"it cannot be read ({error})"
        self.faults.append(f"{path}: the delta of {name} is corrupt, {fault}")
        return None

    def _read(self) -> None:
        """What others have written since the last time; all of it where the folder is another one now."""
        path = self.cache_dir / MANIFEST
        stamp = _stamp(path)
        if stamp != self._stamp or not self._entries.is_of(self.cache_dir / ENTRIES_FILE):
            head: dict[str, Any] = read_json(path) if stamp else dict(EMPTY)
            read_as(
                CacheManifest,
                head,
                f"{path}: not the manifest of a delta cache that this version reads, choose another folder or remove it",
            )
            self._head, self._stamp, self._entries = head, stamp, Entries(self.cache_dir / ENTRIES_FILE)
            for adapter, record in self._head.get("adapters", {}).items():
                self._entries.enter(adapter, record)
        self._entries.read()

    def _write_head(self, **changes: Any) -> None:
        """Change what `manifest.json` says, if that is new."""
        path = self.cache_dir / MANIFEST
        if not path.exists() or any(self._head.get(name) != value for name, value in changes.items()):
            self._head |= changes
            write_json(path, self._head)
            self._stamp = _stamp(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The manifest as others left it; one process at a time."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        with (self.cache_dir / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._read()
            self._write_head()
            yield


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes when a file is written anew; None where there is none."""
    return (status.st_ino, status.st_mtime_ns, status.st_size) if path.exists() and (status := path.stat()) else None
