"""Bases whose linear layers are kept in 8 or 4 bits by bitsandbytes; the rest of them, and what flows between layers, is bfloat16.

Embeddings, norms and the output embedding are not quantized. Adapters stay in float32 and are used in bfloat16, as on any such base.
In 8 bits inputs are rounded too, but for columns in which some row of a forward has an outlier, so answers depend a little on who
shares the forward.
Source: LLM.int8() (Dettmers et al. 2022), NF4 of QLoRA (Dettmers et al. 2023).
"""

import logging
from typing import Any

from transformers import BitsAndBytesConfig, PreTrainedModel

from llgbm.errors import InputError, first_line
from llgbm.lora.targets import COMPUTED_IN

INT8, NF4 = "int8", "nf4"
QUANTIZED = (INT8, NF4)


def quantization(dtype: str) -> BitsAndBytesConfig:
    """How transformers loads a base in one of `QUANTIZED`. InputError when bitsandbytes is not installed, or does not work here."""
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(f"dtype {dtype} needs bitsandbytes ({first_line(error)}); pip install 'llgbm[quantized]'") from error
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every product that it rounds
    if dtype == INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=COMPUTED_IN)


def quantized_dtype(model: PreTrainedModel) -> str | None:
    """Which of `QUANTIZED` a loaded model is in; None for one whose weights are numbers."""
    config: Any = getattr(model.config, "quantization_config", None)
    if not isinstance(config, BitsAndBytesConfig):
        return None
    return INT8 if config.load_in_8bit else NF4


def keep_weights(model: PreTrainedModel) -> None:
    """Have 4-bit weights left as they are.

    On processors with AVX512 and bfloat16, bitsandbytes 0.50 packs them anew in the first forward, and computes nonsense with them after.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
