"""Framing: start once, answers as they are spelled in the text, one right end, lengths kept; for three kinds of tokenizers."""

import pytest
from shared_data import SHARED_DATA, needs_shared_data
from tiny import tiny_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from llgbm.config import ZooConfig
from llgbm.dataset import NO_LABEL
from llgbm.errors import InputError
from llgbm.framing import Framing, context_length
from llgbm.zoo.base import Base, load_base
from llgbm.zoo.micro.tokenizer import build_tokenizer
from llgbm.zoo.suite import ALPACA_FRAME, CHAT_FRAME, Example, Task, TaskSuite

EXAMPLES = [Example("abc", "[CBA]"), Example("cow pig owl", "red"), Example("the cat", "a cat")]
TEXTS = ["the cat sat on the mat", "a cat and a dog", "abc red cow pig owl ### Instruction: ### Response:"] * 4
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FRAMES = (ALPACA_FRAME, "{input} -> ", "{input} =")


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """As Llama's: a space is part of the word it precedes, a text begins with one, unknown characters are bytes, BOS first."""
    pieces = ["▁a", "▁cat", "▁the", "at", "▁c", "ed", "▁re", *(chr(c) for c in range(33, 127)), "▁"]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces])}
    merges = [("a", "t"), ("▁", "c"), ("▁c", "at"), ("▁", "a"), ("e", "d")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def byte_level(**settings) -> PreTrainedTokenizerFast:
    """As GPT-2's and Qwen's: bytes, merged, without BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", **settings)


TOKENIZERS = {"micro": build_tokenizer, "sentencepiece": sentencepiece_like, "byte_level": byte_level}


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("frame", FRAMES)
def test_tokens_spell_the_text_on_top_of_the_prompt(tokenizer, frame) -> None:
    framing = Framing(tokenizer, frame)
    for example in EXAMPLES:
        prompt, answer = framing.ids(example)
        assert prompt == framing.prompt(example.input) == tokenizer(frame.replace("{input}", example.input)).input_ids
        assert answer[-1] == framing.end == tokenizer.eos_token_id
        start = tokenizer.bos_token or ""
        assert (
            tokenizer.decode(prompt + answer[:-1]).removeprefix(start).strip() == frame.replace("{input}", example.input) + example.output
        )


def test_labels_are_the_answer_and_its_end(tokenizer) -> None:
    framing = Framing(tokenizer)
    batch = framing.batch(EXAMPLES)
    for row, example in enumerate(EXAMPLES):
        answer = batch.labels[row][batch.labels[row] != NO_LABEL].tolist()
        assert framing.text(answer) == example.output
        assert answer[-1] == framing.end


def test_a_piece_across_prompt_and_answer_is_not_used() -> None:
    tokenizer = sentencepiece_like()
    together = tokenizer.tokenize("the cat = cat")
    assert together[-1] == "▁cat"
    prompt, answer = Framing(tokenizer, "{input} = ").ids(Example("the cat", "cat"))
    assert tokenizer.convert_ids_to_tokens(prompt)[-2:] == ["=", "▁"]
    assert tokenizer.convert_ids_to_tokens(answer) == ["c", "at", "</s>"]
    assert tokenizer.convert_ids_to_tokens(Framing(tokenizer).ids(Example("the cat", "cat"))[1]) == ["c", "at", "</s>"]


def test_micro_has_the_tokens_it_always_had() -> None:
    tokenizer, framing = build_tokenizer(), Framing(build_tokenizer())
    expected = []
    for example in (*EXAMPLES[:2], EXAMPLES[2]):
        prompt = tokenizer(ALPACA_FRAME.replace("{input}", example.input)).input_ids
        expected += [*prompt, *tokenizer(example.output, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    prompt, answer = framing.ids(EXAMPLES[2], EXAMPLES[:2])
    assert prompt + answer == expected


def test_start_stands_once_before_demonstrations() -> None:
    tokenizer = sentencepiece_like()
    framing = Framing(tokenizer)
    prompt, answer = framing.ids(EXAMPLES[2], EXAMPLES[:2])
    assert prompt[0] == tokenizer.bos_token_id
    assert (prompt + answer).count(tokenizer.bos_token_id) == 1
    assert (prompt + answer).count(framing.end) == 3
    assert answer == framing.ids(EXAMPLES[2])[1]
    assert Framing(tokenizer, "<s>{input} =").prompt("a").count(tokenizer.bos_token_id) == 1


def test_chat_makes_demonstrations_earlier_turns() -> None:
    tokenizer = byte_level(chat_template=CHATML)
    framing = Framing(tokenizer, CHAT_FRAME, "Be brief.")
    prompt, answer = framing.ids(EXAMPLES[2], EXAMPLES[:1])
    assert tokenizer.decode(prompt) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n[CBA]<|im_end|>\n"
        "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(answer) == "a cat<|im_end|>"
    assert {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")} == framing.ends
    assert "system" not in tokenizer.decode(Framing(tokenizer, CHAT_FRAME).prompt("a"))


@needs_shared_data
def test_qwen2_chat() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "qwen2_tokenizer")
    framing = Framing(tokenizer, CHAT_FRAME)
    prompt, answer = framing.ids(Example("hot", "cold"))
    messages = [{"role": "user", "content": "hot"}, {"role": "assistant", "content": "cold"}]
    assert tokenizer.decode(prompt + answer) + "\n" == tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.convert_ids_to_tokens(answer) == ["cold", "<|im_end|>"]


@needs_shared_data
def test_a_llama_of_others() -> None:
    base = load_base(str(SHARED_DATA / "model_stories260k" / "hf"))
    framing = Framing.of(base, TaskSuite("s", {}))
    assert framing.max_length == 512
    prompt, answer = framing.ids(Example("cat dog", "cat"), [Example("red blue", "red")])
    assert base.tokenizer.convert_ids_to_tokens(answer) == ["c", "at", "</s>"]
    assert prompt.count(1) == 1
    assert prompt[0] == 1


def test_ends_and_limit_come_from_the_base() -> None:
    base = Base(tiny_model(max_position_embeddings=64), build_tokenizer(), "tiny")
    base.model.generation_config.eos_token_id = [7, 9]
    suite = TaskSuite("s", {})
    framing = Framing.of(base, suite)
    assert framing.ends == {base.tokenizer.eos_token_id, 7, 9}
    assert framing.max_length == 64
    assert Framing.of(base, suite, ZooConfig(max_length=20)).max_length == 20
    newline = Framing.of(base, suite, ZooConfig(end_token="\n"))
    assert base.tokenizer.decode([newline.end]) == "\n"
    assert Framing.of(base, suite, ZooConfig(end_token="\\n")).end == newline.end  # as a shell passes it
    assert newline.ends == {newline.end, base.tokenizer.eos_token_id, 7, 9}
    with pytest.raises(InputError, match=r"zoo.max_length is 65, base tiny reads at most 64 tokens; lower it"):
        Framing.of(base, suite, ZooConfig(max_length=65))


def test_context_of_a_base_that_states_none() -> None:
    config = AutoConfig.for_model("bloom", vocab_size=61, hidden_size=8, n_layer=1, n_head=2)
    base = Base(AutoModelForCausalLM.from_config(config), build_tokenizer(), "tiny")
    assert context_length(base) == 512
    base.tokenizer.model_max_length = int(1e30)
    assert context_length(base) is None


def test_too_long_is_left_out_or_cut(tokenizer) -> None:
    long = Example("cow " * 30, "red")
    whole = Framing(tokenizer)
    limit = max(len(p) + len(a) for p, a in map(whole.ids, EXAMPLES))
    leave, cut = Framing(tokenizer, max_length=limit), Framing(tokenizer, max_length=limit, cut_left=True)
    assert leave.fitting([*EXAMPLES, long]) == EXAMPLES
    assert cut.fitting([*EXAMPLES, long]) == [*EXAMPLES, long]
    prompt, answer = cut.ids(long)
    expected, same = whole.ids(long)
    assert answer == same
    assert len(prompt) + len(answer) == limit
    start = whole.start
    assert prompt == [*start, *expected[len(expected) - (limit - len(answer) - len(start)) :]]
    assert not Framing(tokenizer, max_length=2, cut_left=True).fitting([long])
    with pytest.raises(InputError, match=rf"takes \d+ tokens, more than {limit}; leave it out, shorten it, or set zoo.max_length"):
        leave.batch([long])


def test_a_chat_that_is_cut_keeps_the_bos_that_its_template_begins_with() -> None:
    tokenizer = byte_level(chat_template="{{ bos_token }}" + CHATML, bos_token="<|endoftext|>")
    bos, long = tokenizer.bos_token_id, Example("cow " * 30, "red")
    whole, cut = (Framing(tokenizer, CHAT_FRAME, max_length=limit, cut_left=True) for limit in (None, 40))
    prompt, answer = cut.ids(long)
    assert prompt == [bos, *whole.ids(long)[0][len(answer) - 39 :]]
    assert len(prompt) + len(answer) == 40
    assert cut.prompt("a") == whole.prompt("a")
    assert cut.prompt("a").count(bos) == 1
    unlike = byte_level(chat_template=CHATML, bos_token="<|endoftext|>")
    assert bos not in Framing(unlike, CHAT_FRAME, max_length=40, cut_left=True).ids(long)[0]


def test_a_task_without_a_fitting_example_is_named(tokenizer) -> None:
    task = Task("t", "d", "seen", "", train=(EXAMPLES[0],), test=tuple(EXAMPLES))
    with pytest.raises(InputError, match=r"task t: none of its 3 test examples fits into 4 tokens; raise zoo.max_length"):
        Framing(tokenizer, max_length=4).of_task(task, "test")
    assert Framing(tokenizer).of_task(task, "train") == [EXAMPLES[0]]


def test_as_many_demonstrations_as_fit(tokenizer) -> None:
    whole = Framing(tokenizer)
    prompt, answer = whole.ids(EXAMPLES[2], EXAMPLES[1:2])
    framing = Framing(tokenizer, max_length=len(prompt) + len(answer))
    assert list(framing.shown(EXAMPLES[2], EXAMPLES[:2])) == EXAMPLES[1:2]
    assert list(whole.shown(EXAMPLES[2], EXAMPLES[:2])) == EXAMPLES[:2]
    assert list(Framing(tokenizer, max_length=3).shown(EXAMPLES[2], EXAMPLES[:2])) == []


def test_refusals() -> None:
    tokenizer = build_tokenizer()
    with pytest.raises(InputError, match="end_token 'end' takes 3 tokens of this tokenizer"):
        Framing(tokenizer, end_token="end")
    with pytest.raises(InputError, match="the answer 'a\\\\nb' contains the end token '\\\\n'; choose another"):
        Framing(tokenizer, end_token="\n").batch([Example("x", "a\nb")])
    with pytest.raises(InputError, match=r"the frame is chat, but the tokenizer .* has no chat template"):
        Framing(tokenizer, CHAT_FRAME)
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    with pytest.raises(InputError, match=r"refuses the suite's turns \(no system\); leave out system"):
        Framing(byte_level(chat_template=strict), CHAT_FRAME, "Be brief.")
    for failing in ("{{ messages[0]['content'] + 1 }}", "{{ messages[9]['content'] }}", "{{ 1 // 0 }}", "{% for %}"):
        with pytest.raises(
            InputError, match=r"the chat template of .* refuses the suite's turns \(.+\); mend it, or give suite.json a frame"
        ):
            Framing(byte_level(chat_template=failing), CHAT_FRAME)
    bare = build_tokenizer()
    bare.eos_token = None
    with pytest.raises(InputError, match="has no eos_token_id"):
        Framing(bare)
