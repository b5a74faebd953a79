"""Pieces of work that each have folders of their own, in which no other process works until their result is written.

The process that was asked holds the folders, not the worker: a worker that dies, perhaps on another machine, leaves no lock behind.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llgbm.fanout.crew import Crew, Item, Tick
from llgbm.tracking.lock import BusyError, hold


@dataclass(frozen=True)
class Piece:
    """What is to be done in some folders, and how its result is kept."""

    name: str
    size: float
    """How much of all it is."""
    folders: tuple[Path, ...]
    arguments: tuple[Any, ...]
    is_done: Callable[[], bool]
    commit: Callable[[Any], None]
    """Takes what the worker returned; the piece is done from then on."""


class Claims:
    """The folders of pieces on their way; a context manager that holds none when it ends."""

    def __init__(self) -> None:
        self.held: dict[str, ExitStack] = {}

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *exc: object) -> None:
        while self.held:
            self.held.popitem()[1].close()

    def perform(self, crew: Crew, method: str, pieces: Sequence[Piece], tick: Tick | None = None) -> Iterator[Piece]:
        """Do every piece that is not done and commit its result; yields each then, and those that another process has done meanwhile.

        Raises:
            BusyError: Another process still works at a piece, and all others are done.
        """
        left: dict[str, BusyError] = {}
        by_name, found = {piece.name: piece for piece in pieces}, list[Piece]()
        for name, result in crew.map(method, self._items(pieces, left, found), tick):
            by_name[name].commit(result)
            self.held.pop(name).close()
            yield by_name[name]
        for name, error in left.items():
            if not by_name[name].is_done():
                raise error
            found.append(by_name[name])
        yield from found

    def _items(self, pieces: Iterable[Piece], left: dict[str, BusyError], found: list[Piece]) -> Iterator[Item]:
        """Each piece that is free and not done, held from now on; the others go to `left` and `found`."""
        for piece in pieces:
            with ExitStack() as stack:
                try:
                    for folder in piece.folders:
                        stack.enter_context(hold(folder))
                except BusyError as error:
                    left[piece.name] = error
                    continue
                if piece.is_done():
                    found.append(piece)
                    continue
                self.held[piece.name] = stack.pop_all()
            yield piece.name, piece.arguments
