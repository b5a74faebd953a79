"""One file that holds artifacts with all they were made from, to carry them from one store to another.

A zip file, nothing in it compressed, the same bytes whenever the same is exported:

manifest.json        format, and the versions' records, each after its inputs
blobs/abcd...        every file's bytes, once

What comes in may be hostile: only entries that the manifest names are read, none longer than it says, and all is checked before
the store is touched. No entry's name ever becomes a path.
"""

import hashlib
import json
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

import networkx as nx
from pydantic.dataclasses import dataclass as checked_dataclass

from llgbm.checking import RECORD, Integer, read_as, shown
from llgbm.errors import InputError
from llgbm.files import parse_json, whole_file
from llgbm.names import refuse_twins
from llgbm.tracking.blobs import CHUNK
from llgbm.tracking.lineage import lineage
from llgbm.tracking.store import Artifact, ArtifactStore

MANIFEST = "manifest.json"
FORMAT = 1
MOST_MANIFEST = 64 << 20
"""Bytes of a manifest: some 300,000 files."""
MOST_VERSION = 1_000_000
"""Higher numbers would leave the versions made here no room."""
_SAME_TIME = (1980, 1, 1, 0, 0, 0)
_REGULAR = stat.S_IFREG | 0o644


@checked_dataclass(frozen=True, config=RECORD)
class _Manifest:
    format: Integer
    artifacts: tuple[Artifact, ...]


def export_archive(store: ArtifactStore, refs: Sequence[str], output: str | Path) -> list[Artifact]:
    """Write artifacts and all they were made from into one file, which is there whole or not at all; what it holds.

    Raises:
        InputError: An artifact or its bytes are gone or damaged, or the file is there already.
    """
    output = Path(output)
    if output.exists():
        raise InputError(f"{output}: is there already; give another file")
    artifacts = _with_ancestors(store, refs)
    manifest = json.dumps({"format": FORMAT, "artifacts": [asdict(artifact) for artifact in artifacts]}, indent=1, ensure_ascii=False)
    with whole_file(output) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_entry(MANIFEST), manifest)
        for digest, size in sorted(_sizes(artifacts).items()):
            with archive.open(_entry(_blob(digest), size), "w") as target:
                store.blobs.copy(digest, target)
    return artifacts


def import_archive(store: ArtifactStore, path: str | Path) -> dict[str, Artifact]:
    """Take in all that an archive holds: its reference -> the artifact here.

    A version whose content and inputs are here already is that one; else it keeps its number where that is free, or gets the next,
    and what was made from it says so. Aliases are not carried: they say what their own store prefers. All bytes are read twice, to
    check everything before anything is written; a crash in between leaves whole versions whose inputs are there, and importing
    again adds the rest.

    Raises:
        InputError: The archive is none, or anything in it is not as its manifest says; the store is as it was.
    """
    path = Path(path)
    with _opened(path) as archive:
        artifacts = _read_manifest(archive, path)
        sizes = _sizes(artifacts)
        _check_entries(archive, sizes, path)
        for digest, size in sizes.items():
            _check_blob(archive, digest, size, path)
        refuse_twins([*store.names(), *(artifact.name for artifact in artifacts)], "artifact")
        for name in {artifact.name for artifact in artifacts}:
            store.versions(name)  # a damaged record here is found now, and not half way
        for digest in sizes:
            with archive.open(_blob(digest)) as content:
                store.blobs.keep(content)
    here: dict[str, Artifact] = {}
    for artifact in artifacts:
        here[artifact.ref] = store.adopt(replace(artifact, inputs=tuple(here[ref].ref for ref in artifact.inputs)))
    return here


def _with_ancestors(store: ArtifactStore, refs: Sequence[str]) -> list[Artifact]:
    """Each after its inputs, otherwise by name."""
    found: dict[str, Artifact] = {}
    asked = [store.get(ref).ref for ref in refs]
    while asked:
        artifact = store.get(asked.pop())
        if artifact.ref not in found:
            found[artifact.ref] = artifact
            asked += artifact.inputs
    try:
        return [found[ref] for ref in nx.lexicographical_topological_sort(lineage(found.values()))]
    except nx.NetworkXUnfeasible as error:
        raise InputError(f"{store.folder}: something is made from itself; 'llgbm artifacts verify' says what") from error


def _sizes(artifacts: Sequence[Artifact]) -> dict[str, int]:
    return {file.sha256: file.size for artifact in artifacts for file in artifact.files.values()}


def _blob(digest: str) -> str:
    return f"blobs/{digest}"


def _entry(name: str, size: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _SAME_TIME)
    entry.create_system, entry.external_attr, entry.file_size = 3, _REGULAR << 16, size
    return entry


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """InputError for whatever makes a file no readable archive, also later on."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        if error.filename not in (path, str(path)):
            raise
        raise InputError(f"{path}: no such file") from error
    except InputError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error) as error:
        raise InputError(f"{path}: no archive of artifacts, or a damaged one ({error}); export it again") from error


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> list[Artifact]:
    """The records, each sound in itself and after its inputs."""
    if archive.namelist().count(MANIFEST) != 1:
        raise _refused(path, f"has not one {MANIFEST}")
    info = archive.getinfo(MANIFEST)
    _check_entry(info, path)
    if info.file_size > MOST_MANIFEST:
        raise _refused(path, f"has a manifest of {info.file_size} bytes, at most {MOST_MANIFEST} are read")
    where = f"{path}/{MANIFEST}"
    values = parse_json(archive.read(info).decode(), where)
    manifest = read_as(_Manifest, values, where)
    if manifest.format != FORMAT:
        raise _refused(path, f"has format {manifest.format}, and {FORMAT} is read")
    known: set[str] = set()
    for artifact in manifest.artifacts:
        missing = [ref for ref in artifact.inputs if ref not in known]
        if missing:
            raise _refused(path, f"gives {artifact.ref} the input {shown(missing[0])}, which does not come before it")
        if artifact.ref in known:
            raise _refused(path, f"has {artifact.ref} twice")
        known.add(artifact.ref)
        _check_record(artifact, path)
    refuse_twins((artifact.name for artifact in manifest.artifacts), f"{path}: artifact")
    return list(manifest.artifacts)


def _check_record(artifact: Artifact, path: Path) -> None:
    """What the types do not say: it can be written as JSON, and its files can lie beside each other."""
    try:
        json.dumps(asdict(artifact), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"has a record of {artifact.ref} that cannot be kept ({error})") from error
    if artifact.version > MOST_VERSION:
        raise _refused(path, f"numbers {artifact.ref} higher than {MOST_VERSION}")
    refuse_twins(artifact.files, f"{path}: file")
    for file in artifact.files:
        inside = next((str(folder) for folder in PurePosixPath(file).parents if str(folder) in artifact.files), None)
        if inside is not None:
            raise _refused(path, f"has in {artifact.ref} the file {shown(inside)} and another inside it")


def _check_entries(archive: zipfile.ZipFile, sizes: dict[str, int], path: Path) -> None:
    """Exactly the entries that the manifest names, each once, plain and of its size."""
    expected: dict[str, int | None] = {MANIFEST: None, **{_blob(digest): size for digest, size in sizes.items()}}
    seen: set[str] = set()
    for info in archive.infolist():
        if info.filename not in expected:
            raise _refused(path, f"holds {shown(info.filename)}, which its manifest does not name")
        if info.filename in seen:
            raise _refused(path, f"holds {info.filename} twice")
        seen.add(info.filename)
        _check_entry(info, path)
        size = expected[info.filename]
        if size is not None and info.file_size != size:
            raise _refused(path, f"says {info.filename} has {info.file_size} bytes, its manifest says {size}")
    missing = sorted(expected.keys() - seen)
    if missing:
        raise _refused(path, f"lacks {missing[0]}")
    if sum(sizes.values()) > path.stat().st_size:
        raise _refused(path, "is smaller than what it says it holds")


def _check_entry(info: zipfile.ZipInfo, path: Path) -> None:
    if info.header_offset < 0:
        raise _refused(path, f"says {info.filename} lies before its beginning")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _refused(path, f"holds {info.filename} as a link, folder or device, and only files are read")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise _refused(path, f"holds {info.filename} compressed or encrypted, and an export is neither")


def _check_blob(archive: zipfile.ZipFile, digest: str, size: int, path: Path) -> None:
    found = hashlib.sha256()
    with archive.open(_blob(digest)) as content:
        while chunk := content.read(min(CHUNK, size + 1)):
            found.update(chunk)
    if found.hexdigest() != digest:
        raise _refused(path, f"holds {_blob(digest)} with bytes of another hash")


def _refused(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}; nothing was imported: get the archive again from where it was exported")
