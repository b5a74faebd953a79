"""Token batches: labels cover the answer and its end, positions line up, padding carries nothing."""

import pytest
import torch

from llgbm.dataset import NO_LABEL, concatenate, encode_examples, encode_texts
from llgbm.errors import InputError
from llgbm.zoo.micro.tokenizer import build_tokenizer
from llgbm.zoo.suite import ALPACA_FRAME, Example

EXAMPLES = [Example("abc", "[CBA]"), Example("cow pig owl", "red"), Example("12", "2,1")]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_labels_are_the_answer_and_its_end(tokenizer) -> None:
    batch = encode_examples(tokenizer, ALPACA_FRAME, EXAMPLES)
    for row, example in enumerate(EXAMPLES):
        answer = batch.labels[row][batch.labels[row] != NO_LABEL]
        assert tokenizer.decode(answer) == example.output + tokenizer.eos_token
        whole = batch.input_ids[row][batch.attention_mask[row].bool()]
        assert tokenizer.decode(whole) == ALPACA_FRAME.replace("{input}", example.input) + example.output + tokenizer.eos_token


def test_predicts_selects_the_position_before_each_target(tokenizer) -> None:
    batch = encode_examples(tokenizer, ALPACA_FRAME, EXAMPLES)
    following = torch.roll(batch.input_ids, -1, dims=1)
    assert torch.equal(following[batch.predicts], batch.targets)
    assert batch.predicts.sum() == (batch.labels != NO_LABEL).sum() == len(batch.targets)


def test_demonstrations_come_first_and_are_not_labeled(tokenizer) -> None:
    plain = encode_examples(tokenizer, ALPACA_FRAME, EXAMPLES[:1])
    shown = encode_examples(tokenizer, ALPACA_FRAME, EXAMPLES[:1], demonstrations=[EXAMPLES[1:]])
    assert torch.equal(shown.targets, plain.targets)
    text = tokenizer.decode(shown.input_ids[0])
    assert text.startswith(ALPACA_FRAME.replace("{input}", "cow pig owl") + "red" + tokenizer.eos_token)


def test_rows_and_concatenate_are_inverse_up_to_padding(tokenizer) -> None:
    batch = encode_examples(tokenizer, ALPACA_FRAME, EXAMPLES)
    parts = [batch.rows([i]) for i in range(3)]
    assert [part.input_ids.shape[1] for part in parts] == batch.attention_mask.sum(1).tolist()
    again = concatenate(parts, tokenizer.pad_token_id)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(getattr(again, name), getattr(batch, name))


def test_texts_are_truncated_and_have_no_labels(tokenizer) -> None:
    batch = encode_texts(tokenizer, ["hello", "a" * 50], max_length=10)
    assert batch.attention_mask.sum(1).tolist() == [5, 10]
    assert not batch.predicts.any()


def test_refusals(tokenizer) -> None:
    with pytest.raises(InputError, match=r"takes \d+ tokens, more than max_length 5"):
        encode_examples(tokenizer, ALPACA_FRAME, EXAMPLES, max_length=5)
    with pytest.raises(InputError, match="text '' has no tokens"):
        encode_texts(tokenizer, ["a", ""])
