"""The frozen base: any causal LM of transformers, from a directory, the hub, or the one that ships with the package."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from llgbm.errors import InputError, first_line
from llgbm.files import hash_json, hash_tensors

MICRO = "micro"
MICRO_FOLDER = Path(__file__).parent / "micro" / "base"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_CONTENT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache")
"""Config entries that say where a model came from or how it is run, not what it computes."""


@dataclass(frozen=True)
class Base:
    """A causal LM in eval mode whose parameters take no gradients, with its tokenizer (padding token guaranteed)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the config and every weight; the same wherever the files lie, another for another dtype."""
        config = {key: value for key, value in self.model.config.to_diff_dict().items() if key not in NOT_CONTENT}
        return hash_json([_plain(config), hash_tensors(self.model.state_dict())])


def load_base(name: str = MICRO, dtype: str = "float32", device: str = "cpu", revision: str | None = None) -> Base:
    """Load a base by name.

    Args:
        name: `micro`, a directory in the format of transformers, or a hub id. Code that comes with a model never runs.
        dtype: float32, bfloat16 or float16.
        device: As torch names it: cpu, cuda, cuda:1, mps.
        revision: Branch, tag or commit of a hub model.

    Raises:
        InputError: Nothing is there, it is no causal LM, a file is truncated or lacks weights, there is no token to pad with.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    _check_device(device)
    source = str(MICRO_FOLDER if name == MICRO else name)
    _check_source(name, source)
    _check_causal(name, _config(name, source, revision))
    model = _model(name, source, DTYPES[dtype], revision).to(torch.device(device))  # pyright: ignore[reportArgumentType]
    tokenizer = _tokenizer(name, source, revision)
    _ensure_padding(name, tokenizer, model)
    return Base(model.eval().requires_grad_(False), tokenizer, name)


def _check_device(device: str) -> None:
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
        raise InputError(f"base {name}: {source} is no directory; give a directory written by save_pretrained, a hub id, or {MICRO}")


def _config(name: str, source: str, revision: str | None) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"base {name}: cannot be read ({first_line(error)}); check the name, the network and config.json (its own code never runs)"
        ) from error


def _check_causal(name: str, config: PretrainedConfig) -> None:
    """The config names a causal LM of transformers."""
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    stated = config.architectures or []
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder or (stated and not known & set(stated)):
        what = ", ".join(stated) or config.model_type
        raise InputError(f"base {name}: is {what}, not a causal language model; use a decoder such as Qwen2ForCausalLM")


def _model(name: str, source: str, dtype: torch.dtype, revision: str | None) -> PreTrainedModel:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, revision=revision, trust_remote_code=False, output_loading_info=True
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise InputError(f"base {name}: weights cannot be loaded ({first_line(error)}); download or copy the model again") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    model, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise InputError(f"base {name}: {len(missing)} weights are missing, the first is {missing[0]}; download or copy the model again")
    return model


def _tokenizer(name: str, source: str, revision: str | None) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        raise InputError(f"base {name}: its tokenizer cannot be loaded ({first_line(error)}); put its files beside the model") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes up where there are no files
        raise InputError(f"base {name}: its tokenizer has no vocabulary; put the tokenizer's files beside the model")
    return tokenizer


def _ensure_padding(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
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
    """JSON without types that only Python knows (dtypes, tuples, integer keys)."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
