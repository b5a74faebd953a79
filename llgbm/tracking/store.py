"""Artifacts: named, versioned files in a content-addressed store, with what each was made from.

<store>/blobs/ab/abcd...                     every file's bytes, once
<store>/artifacts/<name>/<version>.json      one version: kind, files, inputs, metadata; never changed
<store>/aliases/<name>/<alias>.json          a movable name of one version
"""

import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from llgbm.checking import RECORD, Integer, read_as
from llgbm.errors import InputError
from llgbm.files import hash_file, names_its_faults, read_json, sync, write_json
from llgbm.names import path_part, refuse_twins, relative_path
from llgbm.tracking.blobs import GRACE_S, BlobStore
from llgbm.tracking.process import timestamp

DEFAULT_STORE = "artifacts"
LATEST = "latest"
"""The alias that every name has: its highest version."""
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError(f"{value[:20]!r} is no SHA-256, which has 64 hexadecimal digits")
    return value


@checked_dataclass(frozen=True, config=RECORD)
class StoredFile:
    """One file of an artifact."""

    sha256: Annotated[str, AfterValidator(_digest)]
    size: Annotated[Integer, Field(ge=0)]


@checked_dataclass(frozen=True, config=RECORD)
class Artifact:
    """One version of a named artifact."""

    name: Annotated[str, AfterValidator(path_part)]
    version: Annotated[Integer, Field(ge=1)]
    kind: str
    """What it is: dataset, zoo, deltas, model, evaluation ..."""
    files: dict[Annotated[str, AfterValidator(relative_path)], StoredFile]
    """Path below the artifact -> content."""
    inputs: tuple[str, ...] = ()
    """References, `name:v3`, of what it was made from."""
    metadata: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def ref(self) -> str:
        """`name:v3`."""
        return f"{self.name}:v{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class Fault:
    """What is wrong with an artifact or a blob."""

    where: str
    what: str


class ArtifactStore:
    """A folder of artifacts; several processes may put and read at once."""

    def __init__(self, folder: str | Path = DEFAULT_STORE) -> None:
        self.folder = Path(folder)
        self.blobs = BlobStore(self.folder / "blobs")

    def put(
        self,
        name: str,
        source: str | Path,
        kind: str = "file",
        inputs: Sequence[str] = (),
        aliases: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        *,
        volatile: Collection[str] = (),
        any_version: bool = False,
    ) -> Artifact:
        """Keep a file or a folder as the next version of a name; where the newest version is the same already, that one is it.

        Args:
            name: Of the artifact, e.g. `dataset-micro`, `model-delta_multi`.
            source: What to keep; links are refused.
            kind: What it is.
            inputs: References of what it was made from; they must be in the store.
            aliases: Names that this version gets, from whichever version had them.
            metadata: Anything else, as JSON.
            volatile: Files in which versions may differ and be the same, such as records with times.
            any_version: Whether an older version that is the same is it, too.

        Raises:
            InputError: The name or a path in the folder cannot be one, there is nothing to keep, an input is unknown.
        """
        path_part(name, "artifact")
        for alias in aliases:
            _check_alias(alias)
        made_from = tuple(self.get(ref).ref for ref in inputs)
        sources = _files_of(Path(source))
        files = {path: StoredFile(*self.blobs.put(file)) for path, file in sources.items()}
        known = self.versions(name)
        created = timestamp()
        artifact = Artifact(name, known[-1].version + 1 if known else 1, kind, files, made_from, dict(metadata or {}), created)
        candidates = reversed(known if any_version else known[-1:])
        artifact = next((own for own in candidates if _same(own, artifact, volatile)), None) or self._publish(artifact)
        for path, file in sources.items():  # a collector may have taken one between its arrival and the record's
            if not self.blobs.path(files[path].sha256).is_file():
                self.blobs.put(file)
        for alias in aliases:
            self.alias(artifact.ref, alias)
        return artifact

    def get(self, ref: str) -> Artifact:
        """The artifact of a reference: `name:v3`, `name:alias`, or `name`, its newest. InputError when there is none."""
        name, _, tag = ref.partition(":")
        path_part(name, "artifact")
        number = _VERSION.fullmatch(tag)
        if number:
            version = int(number[1])
        elif tag in ("", LATEST):
            version = max(self._versions(name), default=0)
        else:
            version = self.aliases(name).get(tag, 0)
        path = self._record(name, version)
        if not path.is_file():
            known = ", ".join([*(f"v{v}" for v in self._versions(name)[-5:]), *self.aliases(name)])
            raise InputError(f"{self.folder}: no artifact {ref}; " + (f"of {name} there are {known}" if known else f"no {name} at all"))
        return self._read(path)

    def find(self, name: str, source: str | Path) -> Artifact | None:
        """The newest version of a name that holds these very files; None where there is none. InputError as `put`."""
        hashes = {path: hash_file(file) for path, file in _files_of(Path(source)).items()}
        same = (own for own in reversed(self.versions(name)) if {path: file.sha256 for path, file in own.files.items()} == hashes)
        return next(same, None)

    def adopt(self, artifact: Artifact) -> Artifact:
        """Record what another store made, its bytes and inputs being here: the version that is the same, else a new one.

        The new one keeps its number where that is free, else it gets the next.
        """
        return next((own for own in self.versions(artifact.name) if _same(own, artifact)), None) or self._publish(artifact)

    def names(self) -> list[str]:
        """Of all artifacts."""
        return sorted(path.name for path in (self.folder / "artifacts").glob("*") if path.is_dir())

    def versions(self, name: str) -> list[Artifact]:
        """All of a name, oldest first. InputError at a record that is damaged."""
        return [self._read(self._record(name, version)) for version in self._versions(path_part(name, "artifact"))]

    def checkout(self, ref: str, folder: str | Path) -> Artifact:
        """Copy an artifact's files into a folder, each checked. InputError when one is gone or damaged, or would replace another file."""
        artifact, folder = self.get(ref), Path(folder)
        for path in artifact.files:
            if (folder / path).exists():
                raise InputError(f"{folder / path}: is there already; give another folder")
        for path, file in artifact.files.items():
            self.blobs.take(file.sha256, folder / path)
        return artifact

    def alias(self, ref: str, alias: str) -> None:
        """Let an alias name this version from now on."""
        _check_alias(alias)
        artifact = self.get(ref)
        write_json(self.folder / "aliases" / artifact.name / f"{alias}.json", {"version": artifact.version})

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version."""
        found = sorted((self.folder / "aliases" / path_part(name, "artifact")).glob("*.json"))
        return {path.stem: read_as(_Alias, read_json(path), str(path)).version for path in found}

    def remove(self, ref: str) -> Artifact:
        """Take one version out, with its aliases; its bytes go with `collect`. InputError when another artifact was made from it."""
        artifact = self.get(ref)
        users = [other.ref for other in self if artifact.ref in other.inputs]
        if users:
            raise InputError(f"{artifact.ref} is an input of {', '.join(users)}; remove these first")
        for alias, version in self.aliases(artifact.name).items():
            if version == artifact.version:
                (self.folder / "aliases" / artifact.name / f"{alias}.json").unlink()
        self._record(artifact.name, artifact.version).unlink()
        return artifact

    def collect(self, grace_s: float = GRACE_S) -> tuple[int, int]:
        """Remove the bytes that no version needs; how many files, how many bytes."""
        return self.blobs.collect({file.sha256 for artifact in self for file in artifact.files.values()}, grace_s)

    def __iter__(self) -> Iterator[Artifact]:
        """Every version, by name and number. InputError at a record that is damaged."""
        for path in self._records():
            yield self._read(path)

    def faults(self) -> list[Fault]:
        """Everything that is wrong: records, gone or damaged blobs, inputs and aliases that point nowhere."""
        found: list[Fault] = []
        sound: dict[str, Artifact] = {}
        checked: dict[str, str] = {}
        for path in self._records():
            try:
                artifact = self._read(path)
                sound[artifact.ref] = artifact
            except InputError as error:
                found.append(Fault(str(path), str(error)))
        for artifact in sound.values():
            for path, file in artifact.files.items():
                if file.sha256 not in checked:
                    checked[file.sha256] = self._blob_fault(file.sha256)
                if checked[file.sha256]:
                    found.append(Fault(f"{artifact.ref}/{path}", checked[file.sha256]))
            found += [Fault(artifact.ref, f"its input {ref} is not in the store") for ref in artifact.inputs if ref not in sound]
        for name in sorted({artifact.name for artifact in sound.values()}):
            gone = [(alias, version) for alias, version in self.aliases(name).items() if f"{name}:v{version}" not in sound]
            found += [Fault(f"{name}:{alias}", f"names v{version}, which is not in the store") for alias, version in gone]
        return found

    def _blob_fault(self, digest: str) -> str:
        try:
            self.blobs.check(digest)
        except InputError as error:
            return str(error)
        return ""

    def _publish(self, artifact: Artifact) -> Artifact:
        """Write a new version's record, whole, under its number or, where that is taken, the next free one."""
        folder = self.folder / "artifacts" / artifact.name
        refuse_twins([*self.names(), artifact.name], "artifact")
        folder.mkdir(parents=True, exist_ok=True)
        while not _write_new(self._record(artifact.name, artifact.version), asdict(artifact)):
            artifact = replace(artifact, version=max(self._versions(artifact.name), default=0) + 1)
        return artifact

    def _versions(self, name: str) -> list[int]:
        return sorted(int(path.stem) for path in (self.folder / "artifacts" / name).glob("*.json") if path.stem.isdecimal())

    def _record(self, name: str, version: int) -> Path:
        return self.folder / "artifacts" / name / f"{version}.json"

    def _records(self) -> list[Path]:
        return [self._record(name, version) for name in self.names() for version in self._versions(name)]

    def _read(self, path: Path) -> Artifact:
        artifact = read_as(Artifact, read_json(path), str(path))
        if self._record(artifact.name, artifact.version) != path:
            raise InputError(f"{path}: says it is {artifact.ref}, which its place denies; take the store from a copy")
        return artifact


@checked_dataclass(frozen=True, config=RECORD)
class _Alias:
    version: Annotated[Integer, Field(ge=1)]


def _same(a: Artifact, b: Artifact, volatile: Collection[str] = ()) -> bool:
    """Whether two versions differ in number, time and volatile files alone."""
    one, two = ({path: file for path, file in artifact.files.items() if path not in volatile} for artifact in (a, b))
    return one == two and (a.kind, a.inputs, a.metadata) == (b.kind, b.inputs, b.metadata)


def _check_alias(alias: str) -> None:
    path_part(alias, "alias")
    if alias == LATEST or _VERSION.fullmatch(alias):
        raise InputError(f"alias {alias!r} is a version's own name; choose another")


def _files_of(source: Path) -> dict[str, Path]:
    """Path below the artifact -> file. InputError for links, odd names, names that are one on some systems, and when nothing is there."""
    if source.is_symlink() or (not source.is_dir() and not source.is_file()):
        what = "is a link; give what it points to" if source.is_symlink() else "no such file or folder"
        raise InputError(f"{source}: {what}")
    if source.is_file():
        return {path_part(source.name, "file"): source}
    found = {}
    for path in sorted(source.rglob("*")):
        if path.is_symlink():
            raise InputError(f"{path}: is a link, which an artifact cannot hold; put what it points to")
        if path.is_file():
            found[relative_path(path.relative_to(source).as_posix(), "file")] = path
    if not found:
        raise InputError(f"{source}: holds no file to keep")
    refuse_twins(found, "file")
    return found


def _write_new(path: Path, value: Any) -> bool:
    """Write a JSON file unless one is there; whether it was written. Readers see all of it or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with names_its_faults(path), os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        path.hardlink_to(name)
        sync(path.parent)
    except FileExistsError:
        return False
    finally:
        Path(name).unlink(missing_ok=True)
    return True
