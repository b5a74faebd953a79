"""Exact match is of texts: another spelling of the same answer is right, and nothing else is."""

import pytest
import torch

from llgbm import matching
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, complete
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.matching import normalized, score_answers
from llgbm.scoring import score_each
from llgbm.zoo.base import load_base
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suite import Example


@pytest.fixture(scope="module")
def base():
    return load_base("micro")


def test_normalized() -> None:
    assert normalized(" e\u0301  a\n") == "\xe9 a"


def test_spelling_does_not_count_and_text_does(base) -> None:
    suite = micro_suite(n_train=2, n_test=8).spaced(3)
    framing = Framing.of(base, suite)
    shapes = target_shapes(base.model, ["q_proj", "v_proj"])
    functional = FunctionalLoRA(base.model, shapes)
    generator = torch.Generator().manual_seed(0)
    factors = LoRAFactors.initialize(shapes, 2, 4, 3, generator=generator)
    factors = factors.map(lambda tensor: torch.randn(tensor.shape, generator=generator) * 0.05)
    inputs = [example.input for task in suite for example in task.test]
    said = complete(functional, factors, framing, inputs)
    assert all(normalized(text) for text in said)
    changes = (("{}", True, True), (" {}", True, False), ("{} ", True, False), ("{}x", False, False))
    for change, exact, by_token in changes:
        examples = [Example(one, change.format(text)) for one, text in zip(inputs, said, strict=True)]
        batches = [framing.batch(examples[k * 8 : k * 8 + 8]) for k in range(3)]
        assert [s.exact.tolist() for s in score_answers(functional, factors, batches, framing)] == [[exact] * 8] * 3
        assert [s.exact.tolist() for s in score_each(functional, factors, batches, framing.pad)] == [[by_token] * 8] * 3


def test_rows_decoded_together_are_judged_as_alone(base, monkeypatch) -> None:
    suite = micro_suite(n_train=2, n_test=8).spaced(2)
    framing = Framing.of(base, suite)
    functional = FunctionalLoRA(base.model, [])
    inputs = [example.input for task in suite for example in task.test]
    said = complete(functional, None, framing, inputs)
    spellings = [text if i % 4 == 0 else f" {text}" if i % 2 else f" {text}x" for i, text in enumerate(said)]
    examples = [Example(one, text) for one, text in zip(inputs, spellings, strict=True)]
    calls, decode = [], matching.greedy_decode

    def watched(functional, factors, ids, *arguments, **options):
        calls.append(len(ids))
        return decode(functional, factors, ids, *arguments, **options)

    monkeypatch.setattr(matching, "greedy_decode", watched)
    together = score_answers(functional, None, [framing.batch(examples)], framing)[0].exact.tolist()
    assert together == [i % 4 != 2 for i in range(16)]
    assert len(calls) == 1
    assert calls[0] >= 8
    assert together == [score_answers(functional, None, [framing.batch([one])], framing)[0].exact.item() for one in examples]


def test_a_row_whose_context_is_full_says_no_more_while_others_go_on(base) -> None:
    long, short = "abcdefgh" * 3, "abcdef"
    framing = Framing(base.tokenizer, "{input}=")
    framing.max_length = len(framing.prompt(long)) + 2
    functional = FunctionalLoRA(base.model, [])
    alone = [complete(functional, None, framing, [one], 8)[0] for one in (long, short)]
    assert complete(functional, None, framing, [long, short], 8) == alone
    assert len(base.tokenizer(alone[0], add_special_tokens=False).input_ids) == 2 < len(alone[1])


def test_another_end_token_ends_an_answer(base) -> None:
    suite = micro_suite(n_train=2, n_test=4).spaced(1)
    task = next(iter(suite))
    functional, framing = FunctionalLoRA(base.model, []), Framing.of(base, suite)
    said = complete(functional, None, framing, [example.input for example in task.test])
    batch = framing.batch([Example(example.input, text) for example, text in zip(task.test, said, strict=True)])
    other = base.tokenizer.convert_tokens_to_ids("<unk>")
    batch.labels[batch.labels == framing.end] = batch.input_ids[batch.labels == framing.end] = other
    framing.ends |= {other}
    assert score_answers(functional, None, [batch], framing)[0].exact.all()
    framing.ends -= {base.tokenizer.eos_token_id}
    assert not score_answers(functional, None, [batch], framing)[0].exact.any()
