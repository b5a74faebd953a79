"""Every family of causal LMs that transformers knows, tiny and random: its default config with all sizes made small."""

import re
import warnings
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from llgbm.functional_lora.families import ENCODERS

VOCABULARY = 64
LARGEST = 5_000_000
"""Parameters above which a family counts as not made tiny."""
SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab_size.*|n_vocab", VOCABULARY),
    (r"n_layers?|num_(hidden_|encoder_|decoder_|local_|global_)?layers|(en|de)coder_layers|num_blocks", 2),
    (r".*n_heads?|.*num_heads|.*attention_heads|.*num_(key|value|query|key_value)_heads|num_attention_groups|n_kv_heads", 4),
    (r".*hidden_size|n_embd|d_model|dim|.*emb(ed)?_dim|.*embedding_size|word_embed_proj_dim|lru_width|width", 32),
    (r".*intermediate_size|.*ffn_dim|dim_ff|n_inner|.*ffn_(hidden_)?size|dff|d_inner|feed_?forward_size", 48),
    (r".*head_dim|.*head_size|kv_channels|d_kv|.*d_head", 8),
    (r"n_routed_experts|.*num_(local_)?experts|n_experts", 4),
    (r"num_experts_per_tok(en)?|top_k_experts|moe_(top_?)?k|num_selected_experts|experts_per_token", 1),
    (r"topk_group|n_group|num_expert_groups?|n_shared_experts|zero_expert_num", 1),
    (r".*_rank|.*low_rank.*", 8),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_seq(uence)?_len(gth)?|context_length|(max|seq)_length|max_(target|source)_positions",
        64,
    ),
    (r"sliding_window|attention_window_size|window_size", 6),
    (r".*state_size|.*d_state|.*chunk_size|patch_size", 8),
    (r".*n_?groups", 1),
    (r"num_mel_bins|num_channels", 4),
    (r"image_size", 16),
)
"""Name of a config field -> the most it may be."""

HYBRID: dict[str, Any] = {"num_hidden_layers": 4}
"""Four layers have one of each kind."""
CHANGES: dict[str, dict[str, Any]] = {
    **{kind: {"is_decoder": True} for kind in ENCODERS},
    **dict.fromkeys(("lfm3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), HYBRID),
    **{key: {"text_config": HYBRID} for key in ("qwen3_5", "qwen3_5_moe")},
    **{key: {"rotary_dim": 4} for key in ("codegen", "gptj")},
    **{key: {"head_dim": 8} for key in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **{kind: HYBRID | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]} for kind in ("bailing_hybrid", "kimi_linear")},
    **{kind: HYBRID | {"layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"]} for kind in ("zamba", "zamba2")},
    **{kind: {"num_experts_per_tok": 1, "n_routed_experts": 4, "n_shared_experts": 1} for kind in ("deepseek_v2", "dots1")},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}, "ffn_config": {"hidden_size": 32}},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"]},
    "jamba": HYBRID | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16},
    "mamba2": {"num_heads": 8},
    "mimo_v2_flash": {"num_attention_heads": 8},
    "moshi": {"sliding_window": 64},  # its cache forgets what its attention still sees
    "nemotron": {"num_key_value_heads": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xlstm": {"num_heads": 2, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
}
"""What a family needs beside small sizes."""


def tiny_config(kind: str) -> PretrainedConfig:
    """The family's default config with every size small, and the changes it needs."""
    entries = _small(AutoConfig.for_model(kind).to_dict())
    for key, value in CHANGES.get(kind, {}).items():
        entries[key] = entries[key] | value if isinstance(value, dict) and key in entries else value
    return AutoConfig.for_model(kind, **entries)


def tiny_model(kind: str) -> PreTrainedModel:
    """A frozen random model of the family, float32.

    Raises:
        ValueError: It cannot be made small; whatever transformers raises when a config or model cannot be built.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = tiny_config(kind)
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
        if count > LARGEST:
            raise ValueError(f"{count:,} parameters however small the config")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # what starts as zeros would hide what it multiplies
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def _small(entries: dict[str, Any]) -> dict[str, Any]:
    """Only what is changed, so that everything derived from sizes is derived again."""
    changed: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, dict) and key.endswith("_config"):
            changed[key] = _small(value) | {k: value[k] for k in ("model_type",) if k in value}
        elif isinstance(value, int) and not isinstance(value, bool) and key != "chunk_size_feed_forward":
            size = next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), None)
            if key.endswith("_token_id"):
                changed[key] = {"pad_token_id": 0, "bos_token_id": 1}.get(key, 2)
            elif size is not None and value > size:
                changed[key] = size
    return changed
