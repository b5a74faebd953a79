"""Token batches: labels cover the answer and its end, positions line up, padding carries nothing."""

import pytest
import torch

from llgbm.dataset import NO_LABEL, concatenate, encode_texts
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.zoo.micro.tokenizer import build_tokenizer
from llgbm.zoo.suite import Example

EXAMPLES = [Example("abc", "[CBA]"), Example("cow pig owl", "red"), Example("12", "2,1")]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_predicts_selects_the_position_before_each_target(tokenizer) -> None:
    batch = Framing(tokenizer).batch(EXAMPLES)
    following = torch.roll(batch.input_ids, -1, dims=1)
    assert torch.equal(following[batch.predicts], batch.targets)
    assert batch.predicts.sum() == (batch.labels != NO_LABEL).sum() == len(batch.targets)


def test_rows_and_concatenate_are_inverse_up_to_padding(tokenizer) -> None:
    batch = Framing(tokenizer).batch(EXAMPLES)
    parts = [batch.rows([i]) for i in range(3)]
    assert [part.input_ids.shape[1] for part in parts] == batch.attention_mask.sum(1).tolist()
    again = concatenate(parts, tokenizer.pad_token_id)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(getattr(again, name), getattr(batch, name))


def test_texts_are_truncated_and_have_no_labels(tokenizer) -> None:
    batch = encode_texts(tokenizer, ["hello", "a" * 50], max_length=10)
    assert batch.attention_mask.sum(1).tolist() == [5, 10]
    assert not batch.predicts.any()


def test_empty_text_is_refused(tokenizer) -> None:
    with pytest.raises(InputError, match="text '' has no tokens"):
        encode_texts(tokenizer, ["a", ""])
