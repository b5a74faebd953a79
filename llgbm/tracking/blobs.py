"""Content-addressed files: each lies once under the SHA-256 of its bytes, read-only, and is checked whenever it is read."""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from llgbm.errors import InputError
from llgbm.files import hash_file, names_its_faults, sync, whole_file

CHUNK = 1 << 20
"""Bytes read at once."""
READ_ONLY = 0o444
GRACE_S = 3600.0
"""Blobs younger than this are not collected: their artifact may still be on its way."""


class BlobStore:
    """A folder of blobs `ab/abcd...`; any number of processes may write at once, as equal content has one name."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, digest: str) -> Path:
        """Where a blob lies, or would."""
        return self.folder / digest[:2] / digest

    def put(self, source: str | Path) -> tuple[str, int]:
        """`keep` a file's bytes."""
        with Path(source).open("rb") as content:
            return self.keep(content)

    def keep(self, content: IO[bytes]) -> tuple[str, int]:
        """Keep bytes, read once; their SHA-256 and number. A crash leaves the blob whole or none, on disk before this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._temporary() as (temporary, file):
            digest, size = _copied(content, file)
            target = self.path(digest)
            if target.is_file():
                os.utime(target)  # young again, so that no collector takes it before its artifact is there
            else:
                with names_its_faults(target):
                    target.parent.mkdir(exist_ok=True)
                    os.fsync(file.fileno())
                    temporary.chmod(READ_ONLY)
                    temporary.rename(target)
                    sync(target.parent)
        return digest, size

    def take(self, digest: str, target: str | Path) -> None:
        """Copy a blob to a file, which is there whole and right or not at all. InputError when the blob is gone or damaged."""
        with whole_file(target) as file:
            self.copy(digest, file)

    def copy(self, digest: str, target: IO[bytes]) -> None:
        """Copy a blob's bytes. InputError when it is gone, or, once they are copied, when it was damaged."""
        with self._open(digest) as content:
            found, _ = _copied(content, target)
        if found != digest:
            raise self._damaged(digest)

    def check(self, digest: str) -> None:
        """InputError when a blob is gone, or its bytes are not those it was put with."""
        with self._open(digest):
            pass
        if hash_file(self.path(digest)) != digest:
            raise self._damaged(digest)

    def collect(self, keep: Iterable[str], grace_s: float = GRACE_S) -> tuple[int, int]:
        """Remove blobs that nothing needs and what crashes left, both older than the grace; how many files, how many bytes."""
        kept, files, size = set(keep), 0, 0
        for path in list(self.folder.glob("*/*")) + list(self.folder.glob("*.tmp")):
            with suppress(FileNotFoundError):  # another collector was first
                found = path.stat()
                if path.name not in kept and time.time() - found.st_mtime >= grace_s:
                    path.unlink()
                    files, size = files + 1, size + found.st_size
        return files, size

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        try:
            with names_its_faults(self.folder), os.fdopen(handle, "wb") as file:
                yield Path(name), file
        finally:
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def _open(self, digest: str) -> Iterator[BinaryIO]:
        path = self.path(digest)
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise InputError(f"{path}: the blob is gone; put its artifact again, or take the store from a copy") from error
        with file:
            yield file

    def _damaged(self, digest: str) -> InputError:
        return InputError(f"{self.path(digest)}: the blob is damaged, its bytes have another hash; delete it and put its artifact again")


def _copied(source: IO[bytes], target: IO[bytes]) -> tuple[str, int]:
    """Copy everything; SHA-256 and number of bytes."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
        size += len(chunk)
    target.flush()
    return digest.hexdigest(), size
