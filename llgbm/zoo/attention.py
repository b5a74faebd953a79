"""How a base computes attention: as transformers chooses where that works, or as it is told."""

from typing import get_args

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from llgbm.config import Attention
from llgbm.errors import InputError, first_line

WAYS = get_args(Attention)
FUSED_TOKENS = 256
"""Rows so long that torch's attention packs them for AMX; shorter ones than 64 it never does."""
FLASH_ATTENTION = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
"""Ways of attention that take a package of their own, and whether that is here."""


def ensure_attention(model: PreTrainedModel) -> None:
    """Write attention out where torch's fused one fails: in half precision on a processor with AMX that ATEN_CPU_CAPABILITY forbids."""
    rows = torch.zeros(1, 1, FUSED_TOKENS, FUSED_TOKENS, dtype=model.dtype, device=model.device)
    try:
        nn.functional.scaled_dot_product_attention(rows, rows, rows)
    except RuntimeError:
        model.set_attn_implementation("eager")


def set_attention(name: str, model: PreTrainedModel, implementation: str) -> None:
    """Let a model compute attention in the named way; InputError where it cannot, or only by code that would have to be fetched."""
    if implementation not in WAYS:  # another name may be a repository's, whose code transformers would fetch
        raise InputError(f"attn_implementation {implementation!r} is unknown; use one of {', '.join(WAYS)}")
    installed = FLASH_ATTENTION.get(implementation)
    if installed and not installed():
        raise InputError(f"model.attn_implementation is {implementation}, whose package is not installed here; install it, or take sdpa")
    if installed and model.dtype not in (torch.float16, torch.bfloat16):
        raise InputError(
            f"model.attn_implementation is {implementation}, which takes no float32; set model.dtype to bfloat16, or take sdpa"
        )
    try:
        model.set_attn_implementation(implementation)
    except (ValueError, ImportError) as error:
        raise InputError(f"base {name}: cannot compute attention by {implementation} ({first_line(error)}); take another way") from error
    if model.config._attn_implementation != implementation:  # some families only warn
        raise InputError(f"base {name}: its family computes attention in its own way, not by {implementation}; leave it out")
