"""From an encoder's name, such as `hashing+minilm+base`, to the encoder, or to what it needs."""

import difflib
import re
from collections.abc import Callable

from llgbm.errors import InputError
from llgbm.models.encoder import BASE_NAME, MINILM, WISHES_AT, BaseEncoder, HashingEncoder, SentenceEncoder, TextEncoder, WordsInSentence
from llgbm.zoo.base import Base

MINILM_NAME, JOINED = "minilm", "hashing+minilm"
OF_SOURCE = r"sentence-transformers:."
ANOTHER_MODEL = rf"\+(?=(?:{MINILM_NAME}|{BASE_NAME})(?:\+|$)|{OF_SOURCE})"
"""What stands between the parts of an encoder's name; a folder's may have a plus of its own."""


def needs_base(name: str) -> bool:
    """Whether the encoder of that name reads the base, alone or beside others."""
    return BASE_NAME in (name, *models_beside_hashes(name))


def models_beside_hashes(name: str) -> list[str]:
    """What stands beside hashes in an encoder's name, each a model whose tokens are read."""
    first, *models = re.split(ANOTHER_MODEL, name)
    return models if first == HashingEncoder.name else []


def build_encoder(name: str, base: Base | None = None) -> TextEncoder:
    """The encoder of that name.

    Args:
        name: `hashing`, `base`, `minilm`, `sentence-transformers:<folder or Hub id>`, or `hashing+` and one or several of the last three,
            joined by `+`.
        base: The frozen base, for a name that `needs_base`.

    Raises:
        InputError: Unknown name, no such folder, a model twice, or `base` without a base.
    """
    models = models_beside_hashes(name)
    if models and all(model in (MINILM_NAME, BASE_NAME) or re.match(OF_SOURCE, model) for model in models):
        sources = [MINILM if model == MINILM_NAME else model.partition(":")[2] or model for model in models]
        if len({*sources}) < len(sources):
            raise InputError(f"text encoder {name!r} has a model twice; name each once")
        built = [
            BaseEncoder(_needed(base), [WISHES_AT]) if model == BASE_NAME else SentenceEncoder(source)
            for model, source in zip(models, sources, strict=True)
        ]
        return WordsInSentence(name, HashingEncoder(), built)
    kind, _, source = name.partition(":")
    if kind not in ENCODERS or (kind == "sentence-transformers") != bool(source):
        near = difflib.get_close_matches(kind, [*ENCODERS, JOINED], n=1)
        hint = f"did you mean {near[0]!r}? " if near and near[0] != name else ""
        known = ", ".join(k + (":<folder or Hub id>" if k.startswith("sentence") else "") for k in ENCODERS)
        raise InputError(f"unknown text encoder {name!r}; {hint}known: {known}, and hashing with models, such as {JOINED}")
    return ENCODERS[kind](source, base)


def _build_hashing(source: str, base: Base | None) -> TextEncoder:
    return HashingEncoder()


def _build_base(source: str, base: Base | None) -> TextEncoder:
    return BaseEncoder(_needed(base))


def _needed(base: Base | None) -> Base:
    if base is None:
        raise InputError("text encoder 'base' needs the base model; load it and pass it along")
    return base


def _build_minilm(source: str, base: Base | None) -> TextEncoder:
    return SentenceEncoder(MINILM)


def _build_sentence(source: str, base: Base | None) -> TextEncoder:
    return SentenceEncoder(source)


ENCODERS: dict[str, Callable[[str, Base | None], TextEncoder]] = {
    "hashing": _build_hashing,
    MINILM_NAME: _build_minilm,
    "sentence-transformers": _build_sentence,
    BASE_NAME: _build_base,
}
