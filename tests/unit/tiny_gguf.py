"""Tiny Llamas as GGUF files, written by package gguf: what llama.cpp's converter makes of a model and its tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
from tiny import tiny_model
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (("1", "2"), ("a", "b"), ("\u0120", "ab"))
"""The first of two digits: a text that is cut at digits never spells it."""
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, MERGES)]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADS, KEY_VALUE_HEADS = 4, 2


def tiny_llama(seed: int = 0) -> PreTrainedModel:
    """The model that `write_gguf` writes; its only number that is no integer is the same in single precision."""
    changes = {"tie_word_embeddings": True, "rms_norm_eps": 2.0**-20}
    return tiny_model(
        "llama", seed, vocab_size=len(TOKENS), intermediate_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=2, **changes
    )


def write_gguf(
    path: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    family: str = "llama",
    vocabulary: str | None = "gpt2",
    pre: str = "smollm",
    left_out: str = "",
    **numbers: int,
) -> Path:
    """Write `tiny_llama()` as a GGUF file.

    Args:
        path: Of the file.
        kind: How matrices are stored; vectors are float32.
        family: `general.architecture`.
        vocabulary: `tokenizer.ggml.model`; None: no tokenizer.
        pre: How text is cut before it is merged.
        left_out: A tensor that is missing.
        numbers: Further `tokenizer.ggml.<name>_token_id`.
    """
    model: Any = tiny_llama()
    writer = GGUFWriter(path, family)
    _write_shape(writer, model.config)
    if vocabulary is not None:
        _write_tokenizer(writer, vocabulary, pre, {"bos": 1, "eos": 2, "padding": 2, "unknown": 0} | numbers)
    for name, tensor in model.state_dict().items():
        theirs = _their_name(name)
        if theirs not in ("output.weight", left_out):
            values = _permuted(theirs, tensor.numpy())
            stored = GGMLQuantizationType.F32 if values.ndim == 1 else kind
            writer.add_tensor(theirs, quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: GGUFWriter, vocabulary: str, pre: str, numbers: dict[str, int]) -> None:
    writer.add_tokenizer_model(vocabulary)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL)))
    for name, number in numbers.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_chat_template(CHATML)


def _their_name(name: str) -> str:
    parts = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
    }
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


def _permuted(name: str, values: np.ndarray) -> np.ndarray:
    """Queries and keys with their halves by turns, as llama.cpp turns them by positions."""
    heads = {"attn_q": HEADS, "attn_k": KEY_VALUE_HEADS}.get(name.split(".")[-2] if "." in name else "", 0)
    if not heads:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
