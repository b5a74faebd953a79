"""vLLM as it is asked for wherever adapters are answered by it here. It is imported when an engine is made, not before."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import torch
from transformers import PretrainedConfig

from llgbm.errors import InputError, first_line

T = TypeVar("T")
SETTINGS = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_NO_USAGE_STATS": "1"}
"""Unless the environment says otherwise: only what went wrong, nothing on standard output, and no reports of usage."""
BLOCK_TOKENS = 128
"""The cache is given out in blocks of at most so many tokens."""
OTHERWISE = "the backend 'functional' takes it"


def is_installed() -> bool:
    """Whether there is a vLLM, which is not imported for that."""
    return importlib.util.find_spec("vllm") is not None


def load_vllm() -> Any:
    """The package. InputError where it is not installed, or was built for another torch and does not load."""
    if not is_installed():
        raise InputError("vLLM is not installed; pip install vllm where there is a build for it")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("vllm")
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(f"vLLM does not load ({first_line(error)}); install a build of it for torch {torch.__version__}") from error


def lora_request(name: str, number: int, folder: str) -> Any:
    """Asks for an adapter: two of one number, which counts from 1, are taken for the same."""
    return importlib.import_module("vllm.lora.request").LoRARequest(name, number, folder)


def end_of(engine: Any) -> str | None:
    """Why nothing more comes of an engine: its process is gone. One that was killed leaves whoever waits for a step waiting."""
    check = getattr(engine.engine_core, "ensure_alive", None)
    if check is None:  # it works in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0)
        return None
    try:
        check()
    except importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError as error:
        return first_line(error)
    return None


def device_type() -> str:
    """The kind of device that the installed vLLM was built for."""
    return importlib.import_module("vllm.platforms").current_platform.device_type


def adapter_options(rank: int, at_once: int, kept: int) -> dict[str, Any]:
    """What vLLM is told of adapters.

    Args:
        rank: The largest of them.
        at_once: Most in one batch.
        kept: Most in host memory.

    Raises:
        InputError: vLLM knows no rank that large.
    """
    ranks = sorted(get_args(importlib.import_module("vllm.config.lora").MaxLoRARanks))
    if rank > ranks[-1]:
        raise InputError(f"vLLM takes adapters up to rank {ranks[-1]}, these have {rank}; {OTHERWISE}")
    fitting = next(known for known in ranks if known >= rank)
    return {"enable_lora": True, "max_lora_rank": fitting, "max_loras": at_once, "max_cpu_loras": kept}


def check_model(name: str, config: PretrainedConfig) -> None:
    """InputError where vLLM's own model of that architecture takes no adapters, or its CPU build has no attention of that head size.

    Also for a quantized base: vLLM would quantize its files by code and rules of its own.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"base {name}: it is quantized here, and vLLM would serve another one; {OTHERWISE}")
    models = importlib.import_module("vllm.model_executor.models")
    for architecture in config.architectures or []:
        known = models.ModelRegistry.models.get(architecture)
        if known is not None and not models.supports_lora(known.load_model_cls()):
            raise InputError(f"base {name}: vLLM's {architecture} takes no adapters; {OTHERWISE}")
    if device_type() == "cpu":
        attention = importlib.import_module("vllm.v1.attention.backends.cpu_attn").CPUAttentionBackend
        if not attention.supports_head_size(head_size(config)):
            sizes = ", ".join(map(str, attention.get_supported_head_sizes()))
            raise InputError(
                f"base {name}: vLLM on the CPU has no attention for heads of size {head_size(config)}, only {sizes}; {OTHERWISE}"
            )


def head_size(config: PretrainedConfig) -> int:
    """Numbers in a key of one head."""
    text: Any = config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def cache_bytes(config: PretrainedConfig, requests: int, tokens: int, item_bytes: int) -> int:
    """What vLLM's cache takes to hold so many requests of so many tokens each."""
    text: Any = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    blocks = requests * -(-tokens // BLOCK_TOKENS) + 1  # vLLM keeps one empty
    return blocks * BLOCK_TOKENS * 2 * text.num_hidden_layers * heads * head_size(config) * item_bytes


def started(name: str, start: Callable[[], T]) -> T:
    """What starts, or an InputError with what vLLM says first; its processes say more on standard error.

    Args:
        name: Of the base.
        start: Makes an engine, or loads the first adapter into one.
    """
    try:
        return start()
    except Exception as error:  # vLLM raises whatever its libraries do
        raise InputError(f"base {name}: vLLM does not serve it ({first_line(error)}); see what it wrote above, {OTHERWISE}") from error
