"""Adapters by the sentence that describes their task, written on first use; the ones asked for last are kept."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Generated adapters, in the form that a backend reads.

    Args:
        write: Makes a sentence's adapter.
        most: Adapters that are kept; the one unused for longest goes first.
        drop: Called with one that goes.
    """

    def __init__(self, write: Callable[[str], T], most: int, drop: Callable[[T], None] = lambda _: None) -> None:
        self.write, self.most, self.drop = write, most, drop
        self.written = 0
        """Adapters written so far, those that were dropped since included."""
        self._kept: OrderedDict[str, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def sentences(self) -> list[str]:
        """Those with an adapter, the one used last at the end."""
        return list(self._kept)

    @property
    def kept(self) -> Collection[T]:
        """The adapters, in the order of `sentences`."""
        return self._kept.values()

    def take(self, sentences: Iterable[str], in_use: Collection[str | None] = ()) -> dict[str, T]:
        """The adapter of each sentence, written where it is missing: one by one, so that its bits do not depend on who asks beside.

        Args:
            sentences: Whose adapters are wanted.
            in_use: Sentences whose adapters stay, because they are being read.
        """
        taken = {}
        for sentence in dict.fromkeys(sentences):
            if sentence not in self._kept:
                self._kept[sentence] = self.write(sentence)
                self.written += 1
            self._kept.move_to_end(sentence)
            taken[sentence] = self._kept[sentence]
        surplus = len(self._kept) - self.most
        for sentence in [sentence for sentence in self._kept if sentence not in in_use][: max(0, surplus)]:
            self.drop(self._kept.pop(sentence))
        return taken
