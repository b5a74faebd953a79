"""GGUF files as bases: read once by transformers' own reader, then an ordinary directory.

The directory lies in the user's cache under the SHA-256 of the file, with weights in float32, whatever the file quantized them to.
"""

import logging
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from llgbm.errors import InputError, first_line
from llgbm.files import absolute, cache_folder, hash_file, whole_folder, write_json

logger = logging.getLogger(__name__)
SUFFIX = ".gguf"
FORMAT = 1
"""Of the directories; another number where other things are written into them."""
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Vocabularies (`tokenizer.ggml.pre`) learned from text with every digit alone, which transformers' reader leaves out.

Source: the expressions of llama.cpp's src/llama-vocab.cpp; of SmolLM2, its published tokenizer.json has this very sequence.
"""
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
"""transformers' name of a special token -> its name in `tokenizer.ggml.<name>_token_id`."""
ENDS = ("eos", "eot", "eom")
"""Tokens that end an answer, by the same names."""


def is_gguf(name: str) -> bool:
    """Whether a base's name is that of a GGUF file."""
    return name.lower().endswith(SUFFIX) and not Path(name).is_dir()


def unpacked(file: str | Path) -> Path:
    """The directory of a GGUF file's model, made now unless it is there; two processes may ask for it at once.

    Raises:
        InputError: There is no such file, package gguf is missing, the file is damaged or cut, transformers cannot read its family
            or its tokenizer, it has none, or weights are missing.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"base {file}: no such file; give a GGUF file, a directory written by save_pretrained, or a hub id")
    if find_spec("gguf") is None:
        raise InputError(f"base {file}: reading GGUF files needs the package gguf; install it with pip install 'llgbm[gguf]'")
    content = hash_file(path)
    folder = cache_folder() / "gguf" / f"{content[:32]}-{FORMAT}"
    if not folder.is_dir():
        reader = _Reader(path)
        logger.info("base %s: dequantizing it into %s, once", path, folder)
        with whole_folder(folder) as temporary, redirect_stderr(StringIO()):  # its progress bars heed no setting
            reader.write(temporary)
            write_json(temporary / "gguf.json", {"file": absolute(path), "sha256": content})
    return folder


class _Reader:
    """A GGUF file whose header is sound."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields, self.tensors = self._header()
        self.family = str(self._field("general.architecture", "an unnamed family"))
        if not self._field("tokenizer.ggml.tokens"):
            raise InputError(f"base {path}: has no tokenizer; convert the model again together with its tokenizer")

    def write(self, folder: Path) -> None:
        """Model, tokenizer and what ends an answer, as `save_pretrained` writes them."""
        config = self._config()
        tokenizer = self._tokenizer(config)
        model = self._model()
        ids = {f"{name}_token_id": self._id(theirs) for name, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}
        model.config.update(ids)
        ends = [token for token in dict.fromkeys(self._id(name) for name in ENDS) if token is not None]
        model.generation_config = GenerationConfig(**ids | {"eos_token_id": ends or None})
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _header(self) -> tuple[dict[str, Any], list[str]]:
        """The file's metadata, and the names of its tensors; each tensor lies in the file whole."""
        from gguf import GGUFReader

        try:
            reader = GGUFReader(self.path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise InputError(
                f"base {self.path}: is no GGUF file, or damaged or cut short ({first_line(error)}); download or copy it again"
            ) from error
        return dict(reader.fields), [tensor.name for tensor in reader.tensors]

    def _field(self, name: str, default: Any = None) -> Any:
        field = self.fields.get(name)
        return default if field is None else field.contents()

    def _id(self, name: str) -> int | None:
        return self._field(f"tokenizer.ggml.{name}_token_id")

    def _where(self) -> dict[str, Any]:
        return {"pretrained_model_name_or_path": str(self.path.parent), "gguf_file": self.path.name}

    def _config(self) -> PretrainedConfig:
        try:
            return AutoConfig.from_pretrained(**self._where())
        except (ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(
            f"base {self.path}: transformers cannot read GGUF files of family {self.family} ({first_line(error)}); "
            "give the directory or hub id of the model it was made from"
        )

    def _model(self) -> PreTrainedModel:
        """In float32, as if it had never been quantized."""
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(**self._where(), dtype=torch.float32, output_loading_info=True)
        except (ValueError, KeyError, TypeError, OSError, NotImplementedError, RuntimeError) as error:
            raise self._unreadable(error) from error
        model, loading = loaded
        if loading["missing_keys"]:
            missing = sorted(loading["missing_keys"])
            raise InputError(f"base {self.path}: {len(missing)} weights are missing, the first is {missing[0]}; download or copy it again")
        if "rope_freqs.weight" in self.tensors or self._field(f"{self.family}.rope.scaling.type", "none") != "none":
            logger.warning("base %s: transformers does not read how its positions are scaled; long texts may come out otherwise", self.path)
        del model.config.quantization_config, model.hf_quantizer  # transformers saves nothing that came quantized
        return model

    def _tokenizer(self, config: PretrainedConfig) -> PreTrainedTokenizerFast:
        """As the file says, with what transformers' reader leaves out."""
        try:
            read = AutoTokenizer.from_pretrained(**self._where())
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            raise InputError(
                f"base {self.path}: its tokenizer cannot be read ({first_line(error)}); "
                "give the directory or hub id of the model it was made from"
            ) from error
        backend: Any = read.backend_tokenizer
        if self._field("tokenizer.ggml.pre") in DIGITS_APART:
            apart = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            backend.pre_tokenizer = pre_tokenizers.Sequence(apart)
        tokens = self._field("tokenizer.ggml.tokens")
        special = {name: tokens[token] for name, theirs in SPECIAL.items() if (token := self._id(theirs)) is not None}
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            model_max_length=config.get_text_config().max_position_embeddings,
            chat_template=self._field("tokenizer.chat_template"),
            **special,
        )
