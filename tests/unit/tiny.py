"""Tiny random models built on the spot, and random PEFT adapters for them: what several tests need."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 61
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2_LIKE: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": LLAMA_LIKE,
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE | {"sliding_window": 6},
    "gemma": LLAMA_LIKE | {"head_dim": 8},
    "gpt2": GPT2_LIKE,
    "gpt_neox": {k: v for k, v in LLAMA_LIKE.items() if k != "num_key_value_heads"},
    "phi": LLAMA_LIKE,
}


def tiny_model(kind: str = "qwen2", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A frozen random model in float32, its weights large enough that adapters and padding matter."""
    torch.manual_seed(seed)
    settings = ARCHITECTURES.get(kind, LLAMA_LIKE) | COMMON | {"initializer_range": 0.2} | changes
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval().requires_grad_(False)


def peft_adapter(model: PreTrainedModel, folder: Path, seed: int = 0, **lora: Any) -> PeftModel:
    """A PEFT model around a copy of `model` with random non-zero A and B, saved to `folder`."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    settings |= {"fan_in_fan_out": model.config.model_type == "gpt2"} | lora
    peft_model = get_peft_model(copy.deepcopy(model), LoraConfig(**settings)).eval()
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    peft_model.save_pretrained(folder, save_embedding_layers=False)
    return peft_model


def padded_tokens(rows: int, length: int, side: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random ids, mask and position ids; every second row is two tokens shorter, padded on `side`."""
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1::2, (slice(0, 2) if side == "left" else slice(-2, None))] = 0
    return ids * mask, mask, (mask.cumsum(1) - 1).clamp_min(0)
