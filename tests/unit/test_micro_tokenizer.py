from transformers import AutoTokenizer

from llgbm.zoo.micro.tokenizer import EOS, TEMPLATE_TOKENS, build_tokenizer
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.named import MICRO_FOLDER


def texts() -> list[str]:
    suite = micro_suite(n_train=2, n_test=2)
    framed = [suite.framed(e.input) + e.output + EOS for task in suite for e in task.test]
    return framed + [task.description for task in suite] + [e.output for task in suite for e in task.test]


def test_plain_auto_tokenizer_on_the_shipped_base_is_the_tokenizer_it_was_pretrained_with():
    built, loaded = build_tokenizer(), AutoTokenizer.from_pretrained(MICRO_FOLDER)
    assert all(built(text).input_ids == loaded(text).input_ids for text in texts())
    assert (loaded.pad_token_id, loaded.eos_token_id, len(loaded)) == (0, 1, 103)


def test_decoding_is_the_inverse_of_encoding():
    loaded = AutoTokenizer.from_pretrained(MICRO_FOLDER)
    assert all(loaded.decode(loaded(text).input_ids) == text for text in texts())


def test_template_words_are_one_token_and_everything_else_is_spelled():
    tokenizer = build_tokenizer()
    assert all(len(tokenizer(word).input_ids) == 1 for word in TEMPLATE_TOKENS)
    assert len(tokenizer("ab, 12\n{Zz}").input_ids) == 11
