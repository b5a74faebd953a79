"""One process at a time in a folder: a lock file that says who works there, and is taken over when that process is gone."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from llgbm.errors import InputError
from llgbm.tracking.process import Holder, this_process

LOCK_FILE = ".lock"


class BusyError(InputError):
    """Another process works in a folder."""


@contextmanager
def hold(folder: str | Path, lock: str = LOCK_FILE) -> Iterator[None]:
    """Work in a folder that no other process works in meanwhile; it is made if need be, and removed again, with
    the folders above it that were made, if it stays empty.

    Under another name a lock keeps apart only those who ask for the same one: writers of one file in a folder of many.

    A lock that a dead process of this machine left is taken over; a process of another machine cannot be looked at, so its lock holds.

    Raises:
        BusyError: A living process, or one of another machine, works there.
    """
    folder = Path(folder)
    made, own = [path for path in (folder, *folder.parents) if not path.exists()], this_process()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _take(folder / lock, own)
        try:
            yield
        finally:
            _give_back(folder / lock, own)
    finally:
        with suppress(OSError):  # something was written there
            for path in made:
                path.rmdir()


def _take(path: Path, own: Holder) -> None:
    folder = path.parent
    with _opened(path) as file:
        other = _read(file)
        if other is not None and not other.is_here:
            raise BusyError(
                f"{folder}: process {other.pid} on {other.host} has worked there since {other.since} ({other.command}); "
                f"wait for it, or delete {path} if it is gone"
            )
        if other is not None and other.lives:
            raise BusyError(
                f"{folder}: process {other.pid} has worked there since {other.since} ({other.command}); "
                "wait for it, or choose another folder"
            )
        file.seek(0)
        file.truncate()
        file.write(json.dumps(asdict(own)).encode())


def _give_back(path: Path, own: Holder) -> None:
    """Remove the lock unless it is another's by now, who was told to delete it."""
    with _opened(path) as file:
        if _read(file) in (own, None):
            path.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The lock file, which the system lets one process at a time read and change; made if it is not there."""
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                yield file
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still the one at this path: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read(file: BinaryIO) -> Holder | None:
    """Who holds the lock; None for a new file, and for one whose writer was stopped before it was done."""
    try:
        return Holder.of(json.loads(file.read()))
    except ValueError:
        return None
