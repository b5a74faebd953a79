"""A folder of deltas: one safetensors file per adapter, a manifest, any number of writers.

Files are named by content, written atomically and verified on read; the manifest changes under a lock. So a crash at
any moment, or two processes at once, leave a readable cache in which nothing is lost.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llgbm.checking import RECORD, Integer, read_as
from llgbm.errors import InputError
from llgbm.files import absolute, hash_json, read_json, write_bytes, write_json
from llgbm.names import path_part

MANIFEST = "manifest.json"
BASE = "base"


@dataclass(frozen=True, config=RECORD)
class DeltaRecord:
    """One delta of a cache, as its manifest records it."""

    key: str
    file: Annotated[str, AfterValidator(path_part)]
    sha256: str
    shape: tuple[Integer, ...]
    place: str | None = None
    """The adapter's folder in one spelling."""


@dataclass(frozen=True, config=RECORD)
class CacheManifest:
    """What the `manifest.json` of a cache holds."""

    adapters: dict[str, DeltaRecord]
    config: dict[str, Any]
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
        self._read()

    @property
    def manifest(self) -> dict[str, Any]:
        """What is stored, as last read or written: adapters by path, and the configuration of their deltas."""
        return self._manifest

    def bind(self, config: Mapping[str, Any]) -> None:
        """Say which configuration the deltas have; a cache holds only one.

        Raises:
            InputError: The cache was written with another.
        """
        with self._locked():
            found = self._manifest["config"]
            differing = difference(found, config) if found else None
            if differing is not None:
                name, here, asked = differing
                raise InputError(
                    f"{self.cache_dir}: holds deltas of another configuration ({name} is {here}, asked for {asked}); "
                    "choose another folder or remove it"
                )
            self._manifest["config"] = dict(config)

    def save_delta(self, adapter_path: str | Path, delta: Float[np.ndarray, "..."], key: str | None = None) -> None:
        """Store one delta as float32; `key` names its content and defaults to a hash of the path."""
        self.save_deltas({str(adapter_path): (key or hash_json(str(adapter_path)), delta)})

    def save_deltas(self, entries: Mapping[str, tuple[str, np.ndarray]]) -> None:
        """Store several deltas, path -> (key, delta), with one change of the manifest."""
        with self._locked():  # the files too: of two writers of one key, the same one wins in file and manifest
            records = {path: self._write(key, delta) for path, (key, delta) in entries.items()}
            written = {record["key"]: record for record in records.values()}
            known = self._manifest["adapters"]
            same = {path: {**record, **written[record["key"]]} for path, record in known.items() if record["key"] in written}
            self._manifest["adapters"] |= same
            self._enter(records)

    def get_delta(self, adapter_path: str | Path, key: str | None = None) -> Float[np.ndarray, "..."] | None:
        """The delta of one adapter, float32; None when it is absent, corrupt (see `faults`), or stored under another key."""
        record = self._find(str(adapter_path))
        if record is None or (key is not None and record["key"] != key):
            return None
        return self._load(str(adapter_path), record)

    def held(self, keys: Mapping[str, str]) -> set[str]:
        """Of adapters (path -> key), those whose sound delta is stored; one stored for an equal adapter elsewhere gets this path too."""
        adapters = self._manifest["adapters"]
        by_key = {record["key"]: record for record in adapters.values()}
        found = {path: by_key[key] for path, key in keys.items() if key in by_key}
        sound = {path: record for path, record in found.items() if self._load(path, record) is not None}
        moved = {path: record for path, record in sound.items() if adapters.get(path, {}).get("key") != record["key"]}
        if moved:
            with self._locked():
                self._enter(moved)
        return set(sound)

    def get_all_deltas(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Adapter path -> delta of every sound entry."""
        found = {path: self._load(path, record) for path, record in sorted(self._manifest["adapters"].items())}
        return {path: delta for path, delta in found.items() if delta is not None}

    def save_base_activation(self, activation: Float[np.ndarray, "..."], config: Mapping[str, Any]) -> None:
        """Store the base's own states and bind the cache to their configuration."""
        self.bind(config)
        with self._locked():
            self._manifest[BASE] = self._write(BASE, activation)

    def get_base_activation(self) -> Float[np.ndarray, "..."] | None:
        """The base's own states, or None."""
        record = self._manifest.get(BASE)
        return None if record is None else self._load(BASE, record)

    def _enter(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Put records into the manifest; of several spellings of one folder the last stays, so that no adapter counts twice."""
        by_place = {record.get("place", path): path for path, record in self._manifest["adapters"].items()}
        for path, record in records.items():
            place = absolute(path)
            self._manifest["adapters"].pop(by_place.get(place), None)
            self._manifest["adapters"][path] = {**record, "place": place}
            by_place[place] = path

    def _find(self, path: str) -> dict[str, Any] | None:
        """The record of an adapter's folder, however its path was spelled when it was stored."""
        adapters, place = self._manifest["adapters"], absolute(path)
        return adapters.get(path) or next((record for record in adapters.values() if record.get("place") == place), None)

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
            fault = f"it cannot be read ({error})"
        self.faults.append(f"{path}: the delta of {name} is corrupt, {fault}")
        return None

    def _read(self) -> None:
        path = self.cache_dir / MANIFEST
        self._manifest: dict[str, Any] = read_json(path) if path.exists() else {"adapters": {}, "config": {}}
        read_as(CacheManifest, self._manifest, f"{path}: not the manifest of a delta cache, remove it or choose another folder")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The manifest as others left it, written back if it changed; one process at a time."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        with (self.cache_dir / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._read()
            before = json.dumps(self._manifest, sort_keys=True)
            yield
            if json.dumps(self._manifest, sort_keys=True) != before or not (self.cache_dir / MANIFEST).exists():
                write_json(self.cache_dir / MANIFEST, self._manifest)
