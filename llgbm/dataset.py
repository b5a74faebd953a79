"""Padded batches of tokens that know which positions belong to a response.

Shapes: N sequences, T tokens. A logit at position t predicts token t + 1, so `predicts[t]` is true where token t + 1
belongs to a response; `targets` lists those tokens in the row-major order in which `at_tokens(hidden, predicts)` selects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from llgbm.errors import InputError
from llgbm.transfer import to_device

NO_LABEL = -100


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the padding token. InputError when the tokenizer has none."""
    return _special_id(tokenizer, "pad_token_id")


def eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the end-of-sequence token. InputError when the tokenizer has none."""
    return _special_id(tokenizer, "eos_token_id")


@dataclass(frozen=True)
class TokenBatch:
    """A batch padded on the right; `labels` equal `input_ids` at response tokens and are -100 elsewhere.

    Labels stay on the host wherever the tokens are: which tokens belong to responses, and how many, nobody has to ask a device.
    No token of a causal model sees what comes after it, so a base reads a batch without its mask, and to the same numbers.
    """

    input_ids: Int[Tensor, "N T"]
    attention_mask: Int[Tensor, "N T"]
    labels: Int[Tensor, "N T"]

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def predicts(self) -> Bool[Tensor, "N T"]:
        """True at positions whose logits predict a response token; on the host."""
        return F.pad(self.labels[:, 1:] != NO_LABEL, (0, 1))

    @cached_property
    def targets(self) -> Int[Tensor, " n"]:
        """The response tokens, in the order in which `predicts` selects positions; where the tokens are."""
        return to_device(self.labels[:, 1:][self.predicts[:, :-1]], self.input_ids.device)

    def prompt(self, row: int) -> list[int]:
        """The tokens of a row that come before its answer."""
        return self.input_ids[row, : int(self.predicts[row].long().argmax()) + 1].tolist()

    def answers(self) -> list[list[int]]:
        """Each row's response tokens."""
        return [answer.tolist() for answer in self.targets.cpu().split(self.predicts.sum(1).tolist())]

    def rows(self, index: Tensor | slice | Sequence[int]) -> "TokenBatch":
        """The chosen rows, without columns that are padding in all of them."""
        mask = self.attention_mask[index]
        used = mask.any(0).tolist()
        columns = slice(used.index(True), len(used) - used[::-1].index(True)) if True in used else slice(0)
        return TokenBatch(self.input_ids[index][:, columns], mask[:, columns], self.labels[index][:, columns])

    def repeat(self, times: int) -> "TokenBatch":
        """All rows, so many times over."""
        return TokenBatch(*(part.repeat(times, 1) for part in (self.input_ids, self.attention_mask, self.labels)))

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device, labels on the host."""
        there = torch.device(device)
        return TokenBatch(to_device(self.input_ids, there), to_device(self.attention_mask, there), self.labels)


def at_tokens(states: Shaped[Tensor, "N T *rest"], at: Bool[Tensor, "N T"]) -> Shaped[Tensor, "n *rest"]:
    """What is at the chosen tokens, row-major. A device's tokens may be chosen on the host, and then it is not waited for."""
    return states.flatten(0, 1)[to_device(at.flatten().nonzero()[:, 0], states.device)]


def concatenate(batches: Sequence[TokenBatch], pad_token_id: int) -> TokenBatch:
    """Stack right-padded batches, widened to the longest."""
    width = max(batch.input_ids.shape[1] for batch in batches)

    def widened(tensors: list[Tensor], value: int) -> Tensor:
        return torch.cat([F.pad(tensor, (0, width - tensor.shape[1]), value=value) for tensor in tensors])

    return TokenBatch(
        widened([b.input_ids for b in batches], pad_token_id),
        widened([b.attention_mask for b in batches], 0),
        widened([b.labels for b in batches], NO_LABEL),
    )


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int = 256) -> TokenBatch:
    """Tokenize texts without responses, truncated to `max_length`, padded on the right."""
    sequences = [tokenizer(text, truncation=True, max_length=max_length).input_ids for text in texts]
    empty = next((text for text, ids in zip(texts, sequences, strict=True) if not ids), None)
    if empty is not None:
        raise InputError(f"text {empty!r} has no tokens; remove it or write something in it")
    return padded(sequences, [[NO_LABEL] * len(ids) for ids in sequences], pad_id(tokenizer))


def _special_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    value = getattr(tokenizer, name)
    if not isinstance(value, int):
        raise InputError(f"the tokenizer {tokenizer.name_or_path} has no {name}; set one in its tokenizer_config.json")
    return value


def answered(pairs: Iterable[tuple[list[int], list[int]]], pad_token_id: int) -> TokenBatch:
    """Prompts with their answers, which are what is labeled."""
    known = list(pairs)
    return padded([p + a for p, a in known], [[NO_LABEL] * len(p) + a for p, a in known], pad_token_id)


def padded(sequences: list[list[int]], labels: list[list[int]], pad_token_id: int) -> TokenBatch:
    """Sequences and their labels as one batch, padded on the right."""
    longest = max((len(ids) for ids in sequences), default=0)

    def rectangle(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.long)

    return TokenBatch(
        rectangle(sequences, pad_token_id),
        rectangle([[1] * len(ids) for ids in sequences], 0),
        rectangle(labels, NO_LABEL),
    )
