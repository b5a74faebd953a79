"""Adapters by the sentence that describes their task, written on first use; the ones asked for last are kept."""

from collections import OrderedDict
from collections.abc import Sequence

from llgbm.lora.factors import LoRAFactors
from llgbm.models.writer import AdapterWriter
from llgbm.zoo.base import Base


class Shelf:
    """Generated adapters, in memory.

    Args:
        generator: What writes them.
        base: For generators that read with it.
        most: Adapters that are kept; the one unused for longest goes first.
    """

    def __init__(self, generator: AdapterWriter, base: Base, most: int) -> None:
        self.generator, self.base, self.most = generator, base, most
        self.written = 0
        """Adapters written so far, those that were dropped since included."""
        self._kept: OrderedDict[str, LoRAFactors] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def sentences(self) -> list[str]:
        """Those with an adapter, the one used last at the end."""
        return list(self._kept)

    def take(self, sentences: Sequence[str]) -> dict[str, LoRAFactors]:
        """The adapter of each sentence, written where it is missing: one by one, so that its bits do not depend on who asks beside."""
        taken = {}
        for sentence in dict.fromkeys(sentences):
            if sentence not in self._kept:
                self._kept[sentence] = self.generator.generate(description=sentence, base=self.base)
                self.written += 1
            self._kept.move_to_end(sentence)
            taken[sentence] = self._kept[sentence]
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return taken
