"""Which words ask for which level of an attribute: each word of a request comes from one of its levels, or from none of them.

A word is what an encoder's `words` give a vector of its own, in the first D numbers of the encoder's; hashed ones know the next word.

A regression weighs whole texts, and with few tasks it learns tasks by heart: an operation that was only seen with one style is read from
the style's words too. Here every word has one source. Which one it is nobody says; that the same word recurs wherever the level does, and
nowhere else, tells.

Letters: T tasks, n texts of a task, N words of a text, E embedding width, D numbers of a vector that say which word it is, V known words,
F levels of all attributes, K texts that are read.

Source: IBM Model 1, Brown et al. 1993, aclanthology.org/J93-2003; a task's levels are the other language, no level the empty word.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from llgbm.models.reading import TEXTS, spread

ROUNDS = 30
"""Of expectation and maximization."""
KAPPA = 20.0
"""Concentration of the kernel by which a word counts that is known before another word, or spelled a little otherwise."""
UNKNOWN = 0.004
"""Chance that any source brings a word nobody knows, as a share of an average word's."""
SURE = 60.0
"""Concentration of the kernel by which a word is found again: hardly any but those that stand before the word they were known before."""
CAUTION = 2
"""Power of the share of usual words that were found, by which log-odds are multiplied: a phrase in new words has some by chance."""
READINGS = 4
"""How often each attribute is read anew with what was read of the others."""
AT_ONCE = 64
"""Requests whose words are compared with all known ones at a time."""
TINY = 1e-12


class WordAlignment(nn.Module):
    """Known words and how likely each source brings them.

    Args:
        words: How many are known, see `count_words`.
        width: D.
        counts: Levels of each attribute; their sum is F.
    """

    known: Tensor
    brought: Tensor
    usual: Tensor
    certain: Tensor
    unknown: Tensor
    longest: Tensor

    def __init__(self, words: int, width: int, counts: Sequence[int]) -> None:
        super().__init__()
        self.counts = list(counts)
        self.register_buffer("known", torch.zeros(words, width))
        self.register_buffer("brought", torch.zeros(1 + sum(counts), words))
        self.register_buffer("usual", torch.ones(len(counts)))
        self.register_buffer("certain", torch.ones(len(counts)))
        self.register_buffer("unknown", torch.ones(()))
        self.register_buffer("longest", torch.ones(()))

    @classmethod
    def fitted(
        cls, texts: Sequence[Sequence[Float[Tensor, "_ E"]]], labels: Float[Tensor, "T F"], width: int, counts: Sequence[int]
    ) -> "WordAlignment":
        """As `fit` learns it, of all words that the texts have."""
        alignment = cls(count_words(texts, width), width, counts)
        alignment.fit(texts, labels)
        return alignment

    @torch.no_grad()
    def fit(self, texts: Sequence[Sequence[Float[Tensor, "_ E"]]], labels: Float[Tensor, "T F"]) -> None:
        """Learn from the texts of tasks whose levels are known.

        Args:
            texts: For each task the vectors of its texts' words.
            labels: One-hot within each attribute, zero where a task lacks it.
        """
        words, places, owners = _words(texts, self.known.shape[1])
        said = torch.zeros(len(texts), len(words), dtype=torch.float64)
        said.index_put_((owners, places), torch.ones((), dtype=torch.float64), accumulate=True)
        sources = F.pad(labels.double(), (1, 0), value=1.0)
        brought = torch.full((sources.shape[1], len(words)), 1 / len(words), dtype=torch.float64)
        of_sources = brought
        for _ in range(ROUNDS):
            of_sources = brought * (sources.T @ (said / (sources @ brought).clamp_min(TINY)))
            brought = of_sources / of_sources.sum(1, keepdim=True).clamp_min(TINY)
        of_levels = of_sources[1:].sum(1).split(self.counts)
        asking = (labels.double() * torch.tensor([[min(TEXTS, len(group))] for group in texts])).sum(0).split(self.counts)
        self.usual.copy_(torch.stack([words.sum() / texts.sum().clamp_min(1) for words, texts in zip(of_levels, asking, strict=True)]))
        always = torch.stack([(part.sum(1) > 0).all() for part in labels.split(self.counts, 1)])
        self.certain.copy_(always if always.any() else ~always)
        self.known.copy_(words)
        self.brought.copy_(brought)
        self.unknown.fill_(UNKNOWN / len(words))
        self.longest.fill_(max(int(_are_words(text, self.known.shape[1]).sum()) for group in texts for text in group))

    def with_room(self, words: int) -> "WordAlignment":
        """The same with room for so many words."""
        wider = WordAlignment(words, self.known.shape[1], self.counts)
        room = words - len(self.known)
        padded = {"known": F.pad(self.known, (0, 0, 0, room)), "brought": F.pad(self.brought, (0, room))}
        wider.load_state_dict(self.state_dict() | padded)
        return wider

    def say(self, vectors: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> Float[Tensor, "K F"]:
        """Log-odds of the levels of each attribute, side by side, as far as they count."""
        said, found = self.read(vectors, mask)
        return found * said

    def read(self, vectors: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> tuple[Float[Tensor, "K F"], Float[Tensor, "K 1"]]:
        """Log-odds of the levels of each attribute, each level's with the others as likely as they were read; and how much they count.

        They count the less the fewer words were found again that levels bring, of what is usual for each attribute: from 1 to 0, where
        there are none. All attributes count alike, as a phrase in new words most often has others beside it; but those that a task may
        lack do not, unless it may lack any. A request longer than every known text is taken for several, whose mean is said.
        """
        mask = mask & _are_words(vectors, self.known.shape[1])
        chances, again = map(torch.cat, zip(*(self._chances(few) for few in vectors.split(AT_ONCE)), strict=True))
        none, levels = self._by_source(chances)
        read = [torch.full_like(part[:, 0], 1 / part.shape[-1]) for part in levels]
        said = list(read)
        for _ in range(READINGS):
            for own, part in enumerate(levels):
                others = [levels[i] @ read[i][..., None] for i in range(len(levels)) if i != own]
                said[own] = ((none + sum(others) + part).log() * mask[..., None]).sum(1).log_softmax(-1)
                read[own] = said[own].exp()
        none, levels = self._by_source(again)
        brought = torch.cat([part @ chances[..., None] for part, chances in zip(levels, read, strict=True)], -1)
        texts = (mask.sum(1, keepdim=True) / self.longest).clamp_min(1)
        found = (brought / (none + brought.sum(-1, keepdim=True)) * mask[..., None]).sum(1) / texts
        shares = (found / self.usual.clamp_min(TINY)).clamp_max(1)
        share = (shares @ self.certain / self.certain.sum())[:, None]
        return torch.cat(said, 1) / texts, share**CAUTION

    def _chances(self, vectors: Float[Tensor, "k N E"]) -> tuple[Float[Tensor, "k N _"], Float[Tensor, "k N _"]]:
        """That each source brings each word, and that each brings it again as it was known."""
        apart = _directions(vectors, self.known.shape[1]) @ self.known.float().T - 1
        near, again = ((kappa * apart).exp_() @ self.brought.float().T for kappa in (KAPPA, SURE))
        return near, again

    def _by_source(self, chances: Float[Tensor, "K N _"]) -> tuple[Float[Tensor, "K N 1"], list[Float[Tensor, "K N _"]]]:
        """That no level brings each word, and that each level does, apart by attribute."""
        none, *levels = chances.split([1, *self.counts], -1)
        return none + self.unknown, levels


def count_words(texts: Sequence[Sequence[Float[Tensor, "_ E"]]], width: int) -> int:
    """How many words an alignment that is fitted to these texts knows."""
    return len(_words(texts, width)[0]) if width else 0


def _words(
    texts: Sequence[Sequence[Float[Tensor, "_ E"]]], width: int
) -> tuple[Float[Tensor, "V D"], Int[Tensor, " w"], Int[Tensor, " w"]]:
    """The different words of texts; of each word there which one it is, and which task it belongs to.

    Two words are one where the same numbers of them are positive and negative: hashes of different words differ there, but for a few in ten
    thousand, and rounding does not.
    """
    vectors = [torch.cat([group[i] for i in spread(len(group), TEXTS)]) for group in texts]
    few = [rows[_are_words(rows, width)] for rows in vectors]
    rows = _directions(torch.cat(few), width)
    kinds, places = rows.sign().to(torch.int8).unique(dim=0, return_inverse=True)
    first = torch.full((len(kinds),), len(rows)).scatter_reduce(0, places, torch.arange(len(rows)), "amin")
    return rows[first], places, torch.arange(len(texts)).repeat_interleave(torch.tensor([len(group) for group in few]))


def _are_words(vectors: Float[Tensor, "*_ E"], width: int) -> Bool[Tensor, "*_"]:
    return vectors[..., :width].any(-1)


def _directions(vectors: Float[Tensor, "*_ E"], width: int) -> Float[Tensor, "*_ D"]:
    return F.normalize(vectors[..., :width].float(), dim=-1)
