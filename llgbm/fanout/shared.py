"""A folder that workers write to themselves: each starts where the driver stands, and is refused where it sees another disk."""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llgbm.errors import InputError
from llgbm.files import absolute, write_text


@dataclass(frozen=True)
class SharedFolder:
    """A folder with a mark in it that nobody else's has, and the folder in which the driver works."""

    folder: Path
    mark: str
    start: Path

    def enter(self) -> None:
        """Work where the driver does, so that relative paths mean the same.

        Raises:
            InputError: This machine has another disk at one of the paths.
        """
        host = socket.gethostname()
        if not self.start.is_dir():
            raise InputError(
                f"the worker on {host} has no folder {self.start}, in which the command was given; give it in one that every node has"
            )
        os.chdir(self.start)
        if not (self.folder / self.mark).is_file():
            raise InputError(
                f"the worker on {host} does not see {self.folder}, to which it is to write, as the process that asks it does; "
                "choose a folder on a disk that all nodes share under one path"
            )


@contextmanager
def marked(folder: str | Path) -> Iterator[SharedFolder]:
    """Mark a folder, which is made if need be, while workers may begin."""
    shared = SharedFolder(Path(absolute(folder)), f".seen-{uuid.uuid4().hex}", Path.cwd())
    write_text(shared.folder / shared.mark, "workers look for this\n")
    try:
        yield shared
    finally:
        (shared.folder / shared.mark).unlink(missing_ok=True)
