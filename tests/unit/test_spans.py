"""Windows over long contexts and the spans that come out of them again, by two kinds of tokenizers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from tolerance import assert_near, depth
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from llgbm.errors import InputError
from llgbm.models.encoder import bundled_minilm
from llgbm.study.span_head import SpanModel, collate
from llgbm.study.spans import NONE, Candidate, Window, best_spans, choose_threshold, make_windows
from llgbm.study.squad import Question
from llgbm.study.squad_metrics import NO_ANSWER

WORDS = ["red", "green", "blue", "café", "naïve", "x1", "42", "don't", "—", "Zürich", "end.", "(so)"]
LONG = " ".join(f"{WORDS[i % len(WORDS)]} number{i}" for i in range(120))


def _question(answer: str = "", context: str = LONG, question: str = "Which number is it?") -> Question:
    answers = ((answer, context.index(answer)),) if answer else ()
    return Question(f"{answer or 'none'}-{len(context)}", "article", context, question, answers)


@pytest.fixture(scope="module", params=["pieces", "bytes"])
def tokenizer(request):
    if request.param == "pieces":
        return AutoTokenizer.from_pretrained(str(bundled_minilm()))
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([LONG], vocab_size=400, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, pad_token="!")


def test_windows_cover_the_context_and_overlap(tokenizer) -> None:
    windows = make_windows([_question()], tokenizer, 64, 12)
    assert len(windows) > 3
    assert all(len(window.tokens) <= 64 and len(window.tokens) == len(window.offsets) for window in windows)
    covered = [{c for pair in window.offsets if pair for c in range(*pair)} for window in windows]
    assert {c for c, character in enumerate(LONG) if character != " "} <= set().union(*covered)
    for one, other in itertools.pairwise(windows):
        assert len({p for p in one.offsets if p} & {p for p in other.offsets if p}) == 12


@pytest.mark.parametrize("answer", ["red number0", "café number27", "don't", "number119", "— number56 Zürich", "(so) number11"])
def test_an_answer_is_found_again_by_its_window(tokenizer, answer) -> None:
    question = _question(answer)
    windows = make_windows([question], tokenizer, 64, 24)
    holding = [window for window in windows if window.start != NONE]
    assert holding
    for window in holding:
        first, last = window.offsets[window.start], window.offsets[window.end]
        assert LONG[first[0] : last[1]].strip() == answer
    begin, stop = question.answers[0][1], question.answers[0][1] + len(answer)
    for window in (window for window in windows if window.start == NONE):
        known = [pair for pair in window.offsets if pair]
        assert known[0][0] > begin or known[-1][1] < stop


def test_peaks_become_the_answer(tokenizer) -> None:
    questions = [_question("café number27"), _question("number119"), _question()]
    windows = make_windows(questions, tokenizer, 64, 24)
    starts = [np.where(np.arange(80) == window.start, 9.0, 0.0).astype(np.float32) for window in windows]
    ends = [np.where(np.arange(80) == window.end, 9.0, 0.0).astype(np.float32) for window in windows]
    found = best_spans(questions, windows, starts, ends, [4.0 if window.start != NONE else -4.0 for window in windows])
    assert [candidate.said() for candidate in found] == ["café number27", "number119", NO_ANSWER]
    assert found[0].confidence == pytest.approx(1 / (1 + np.exp(-4.0)))


def test_no_span_is_backward_too_long_or_in_the_question(tokenizer) -> None:
    question = _question("red number0")
    [window] = make_windows([question], tokenizer, 256, 8)[:1]
    places = [place for place, pair in enumerate(window.offsets) if pair]
    starts, ends = np.zeros((2, len(window.tokens)), dtype=np.float32)
    starts[0] = ends[1] = 100.0  # no context
    starts[places[40]], ends[places[4]] = 8.0, 7.0  # backward
    backward = best_spans([question], [window], [starts], [ends], [0.0], longest=5)[0].text
    assert backward == question.context[window.offsets[places[40]][0] : window.offsets[places[44]][1]].strip() or len(backward) < 40
    ends[places[44]] = 6.0
    assert best_spans([question], [window], [starts], [ends], [0.0], longest=5)[0].text.split()
    start, stop = window.offsets[places[40]][0], window.offsets[places[44]][1]
    assert best_spans([question], [window], [starts], [ends], [0.0], longest=5)[0].text == question.context[start:stop].strip()
    ends[places[45]] = 50.0  # one token too far
    assert (
        best_spans([question], [window], [starts], [ends], [0.0], longest=5)[0].text
        != question.context[start : window.offsets[places[45]][1]]
    )


def test_a_sure_span_in_a_window_without_an_answer_loses(tokenizer) -> None:
    question = _question("number119")
    windows = make_windows([question], tokenizer, 64, 24)
    starts = [np.zeros(64, dtype=np.float32) for _ in windows]
    ends = [np.zeros(64, dtype=np.float32) for _ in windows]
    first = next(place for place, pair in enumerate(windows[0].offsets) if pair)
    starts[0][first] = ends[0][first] = 20.0
    starts[-1][windows[-1].start], ends[-1][windows[-1].end] = 6.0, 6.0
    answerable = [-9.0] * (len(windows) - 1) + [3.0]
    assert best_spans([question], windows, starts, ends, answerable)[0].text == "number119"


def test_a_long_question_is_cut_and_a_window_keeps_room(tokenizer) -> None:
    windows = make_windows([_question("number119", question="why " * 300)], tokenizer, 64, 8)
    assert max(len(window.tokens) for window in windows) <= 64
    assert windows[-1].start != NONE
    with pytest.raises(InputError, match="an overlap of 60 tokens does not fit a window of 64"):
        make_windows([_question()], tokenizer, 64, 60)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="windows need a fast tokenizer"):
        make_windows([_question()], object(), 64, 8)


def test_the_threshold_is_the_best_one() -> None:
    candidates = [Candidate("aa", 0.9), Candidate("bb", 0.8), Candidate("cc", 0.3), Candidate("dd", 0.2)]
    assert choose_threshold(candidates, [["aa"], ["bb"], [], []]) == 0.5
    assert choose_threshold(candidates, [["aa"], [], [], []]) == pytest.approx(0.85)
    assert choose_threshold(candidates, [["aa"], ["bb"], ["cc"], []]) == pytest.approx(0.25)
    assert choose_threshold(candidates, [[], [], [], []]) > 0.9
    assert choose_threshold(candidates, [["aa"], ["bb"], ["cc"], ["dd"]]) < 0.2
    assert all(candidate.said(choose_threshold(candidates, [[]] * 4)) == NO_ANSWER for candidate in candidates)


def _model(architecture: str, vocabulary: int) -> SpanModel:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": vocabulary,
        "initializer_range": 0.2,
    }
    if architecture == "decoder":
        return SpanModel(LlamaModel(LlamaConfig(**shape)), "decoder", 32)
    return SpanModel(BertModel(BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)), "encoder", 32)


@pytest.mark.numeric
@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_padding_changes_no_logit(architecture, tokenizer) -> None:
    model = _model(architecture, len(tokenizer)).eval()
    windows = make_windows([_question(context="red green"), _question("number119")], tokenizer, 64, 8)
    with torch.no_grad():
        together = model(**collate(windows, 0))
        alone = model(**collate(windows[:1], 0))
    length = len(windows[0].tokens)
    kept = torch.tensor([pair is not None for pair in windows[0].offsets])
    for name in ("start_logits", "end_logits"):
        assert_near(together[name][0, :length][kept], alone[name][0][kept], length=32, depth=depth(2))
    assert_near(together["answerable_logits"][:1], alone["answerable_logits"], length=32, depth=depth(2))


def test_without_an_answer_the_loss_is_of_answerability_alone(tokenizer) -> None:
    model = _model("decoder", len(tokenizer))
    batch = collate(make_windows([_question(context="red green")], tokenizer, 64, 8), 0)
    out = model(**batch)
    assert out.loss.item() == pytest.approx(torch.nn.functional.softplus(out.answerable_logits).item(), rel=1e-5)
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model(batch["input_ids"], batch["attention_mask"], batch["context_mask"]).loss is None


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_both_heads_are_learned_jointly(architecture, tokenizer) -> None:
    context = "red apple blue car green tree"
    colors = {"apple": "red", "car": "blue", "tree": "green"}
    asked = [_question(color, context, f"color of the {thing}?") for thing, color in colors.items()]
    asked += [_question("", context, f"color of the {thing}?") for thing in ("42", "naïve")]
    model = _model(architecture, len(tokenizer))
    windows: list[Window] = make_windows(asked, tokenizer, 64, 8)
    batch = collate(windows, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = model.eval()(**batch)
    found = best_spans(asked, windows, list(out.start_logits.numpy()), list(out.end_logits.numpy()), out.answerable_logits.tolist())
    assert [candidate.said() for candidate in found] == ["red", "blue", "green", "", ""]


def test_the_first_answer_is_the_one_to_learn(tokenizer) -> None:
    question = replace(_question("number3"), answers=(("number3", LONG.index("number3")), ("red", 0)))
    window = next(window for window in make_windows([question], tokenizer, 64, 8) if window.start != NONE)
    assert LONG[window.offsets[window.start][0] : window.offsets[window.end][1]].strip() == "number3"
