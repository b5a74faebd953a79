"""Answers are judged by their task's metric, wherever answers are judged."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from llgbm import judging, matching
from llgbm.config import LoRAConfig, ZooConfig
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, complete
from llgbm.judging import Judge, judge_answers, judge_each
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.matching import score_answers
from llgbm.metrics import METRICS
from llgbm.scoring import Score, score_each
from llgbm.training.setup import TeacherSet
from llgbm.zoo.base import load_base
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suite import Example, Task, TaskSuite
from llgbm.zoo.suites import load_suite
from llgbm.zoo.trainer import make_lesson, train_adapters

LETTERS = ("abc", "cab", "bca", "dad", "bed", "fed")


@pytest.fixture(scope="module")
def base():
    return load_base("micro")


@pytest.fixture(scope="module")
def asked(base):
    """A functional base, two adapters that change what it says, and a framing."""
    shapes = target_shapes(base.model, ["q_proj", "v_proj"])
    generator = torch.Generator().manual_seed(0)
    factors = LoRAFactors.initialize(shapes, 2, 4, 2, generator=generator)
    factors = factors.map(lambda tensor: torch.randn(tensor.shape, generator=generator) * 0.05)
    return FunctionalLoRA(base.model, shapes), factors, Framing.of(base, micro_suite(n_train=2, n_test=2))


def task(metric: str, examples: list[Example], name: str = "one") -> Task:
    return Task(name, "d", "seen", "Say it.", metric=metric, train=tuple(examples), test=tuple(examples))


def test_text_metrics_read_what_is_said(asked) -> None:
    functional, factors, framing = asked
    inputs = [*LETTERS, *LETTERS]
    said = complete(functional, factors, framing, inputs)
    others = [said[1], said[0], *said[2:]]
    expected = [f"{text} more words" if i % 2 else text for i, text in enumerate(others)]
    tasks = [task("token_f1", [Example(one, text) for one, text in zip(LETTERS, expected[k * 6 : k * 6 + 6], strict=True)]) for k in (0, 1)]
    batches = [framing.batch(framing.of_task(one, "test")) for one in tasks]
    found = judge_answers(functional, factors, batches, [Judge.of(framing, one) for one in tasks])
    mark = METRICS["token_f1"].mark
    assert mark is not None
    wanted = [mark(one, other) for one, other in zip(said, expected, strict=True)]
    assert Score.join(found).marks.tolist() == pytest.approx(wanted)
    assert len({round(x, 3) for x in wanted}) > 1
    plain = score_answers(functional, factors, batches, framing)
    assert all(torch.equal(one.exact, other.exact) for one, other in zip(found, plain, strict=True))


def test_what_is_said_at_length_is_read_to_its_end(asked, monkeypatch) -> None:
    functional, factors, framing = asked
    long = framing.answer(Example("", "abc " * 20 + "7"))

    def decode(functional, factors, ids, mask, limit, ends, pad, hopeless):
        return torch.tensor([long[:limit]] * len(ids))

    monkeypatch.setattr(matching, "greedy_decode", decode)
    one = task("numeric", [Example(letters, "7") for letters in LETTERS[:2]])
    (found,) = judge_answers(functional, factors.select([0]), [framing.batch(one.test)], [Judge.of(framing, one)])
    assert found.marks.tolist() == [1.0, 1.0]
    assert not found.exact.any()


@pytest.mark.numeric
def test_a_choice_is_the_likeliest_option(asked) -> None:
    functional, factors, framing = asked
    options = ("a", "bb", "ccc")
    one = task("choice", [Example(letters, options[i % 3]) for i, letters in enumerate(LETTERS)])
    assert one.options == options
    batch = framing.batch(framing.of_task(one, "test"))
    found = judge_answers(functional, factors, [batch, batch], [Judge.of(framing, one)] * 2)
    for k, score in enumerate(found):
        for i, example in enumerate(one.test):
            likelihoods = []
            for option in options:
                prompt, answer = framing.ids(Example(example.input, option))
                ids = torch.tensor([prompt + answer])
                logits = functional(factors.select([k]), ids, torch.ones_like(ids), logits_at=torch.ones_like(ids).bool()).logits
                likelihoods.append(-F.cross_entropy(logits[len(prompt) - 1 : -1].float(), ids[0, len(prompt) :], reduction="sum").item())
            right = options[likelihoods.index(max(likelihoods))] == example.output
            assert score.marks[i] == right
    assert 0 < torch.cat([score.marks for score in found]).mean() < 1


def test_options_that_leave_no_room_cut_the_question(base, monkeypatch) -> None:
    functional = FunctionalLoRA(base.model, [])
    one = task("choice", [Example("abcdef ghij", "x"), Example("a", "x " * 20)])
    whole = Framing.of(base, micro_suite(n_train=2, n_test=2))
    room = max(len(prompt) + len(answer) for prompt, answer in (whole.ids(example) for example in one.test))
    tight = Framing(base.tokenizer, whole.frame, max_length=room)
    batch = tight.batch(one.test[:1])
    judge = Judge.of(tight, one)
    read = []

    def watched(functional, factors, batches, pad):
        read.extend(batch.input_ids.shape[1] for batch in batches)
        return score_each(functional, factors, batches, pad)

    monkeypatch.setattr(judging, "score_each", watched)
    assert judge_answers(functional, None, [batch], [judge])[0].marks.tolist() in ([0.0], [1.0])
    assert read == [room]


@pytest.mark.numeric
def test_each_adapter_is_judged_by_its_own_task(asked) -> None:
    functional, factors, framing = asked
    examples = [Example(letters, "a" if i % 2 else "b") for i, letters in enumerate(LETTERS)]
    tasks = [task("exact_match", examples), task("choice", examples)]
    batch = framing.batch(examples)
    judges = [Judge.of(framing, one) for one in tasks]
    exact, choice = judge_each(functional, factors, [batch, batch], judges, framing.pad)
    assert torch.equal(exact.exact, score_each(functional, factors, [batch, batch], framing.pad)[0].exact)
    (alone,) = judge_answers(functional, factors.select([1]), [batch], judges[1:])
    assert torch.equal(choice.marks, alone.marks)
    assert choice.mean_mark > exact.mean_mark == 0


def test_held_back_tasks_are_judged_by_their_metrics(asked) -> None:
    functional, factors, framing = asked
    examples = [Example(letters, "a" if i % 2 else "b") for i, letters in enumerate(LETTERS)]
    tasks = [task("exact_match", examples), task("choice", examples)]
    held = TeacherSet([], tasks, factors, framing.batch(examples * 2), len(examples), [Judge.of(framing, one) for one in tasks])
    found = held.score(functional, factors, range(2), held.rows_of(range(2)))
    each = judge_each(functional, factors, [framing.batch(examples)] * 2, held.judges, framing.pad)
    assert torch.equal(found.marks, Score.join(each).marks)
    last = held.score(functional, factors.select([1]), range(1, 2), held.rows_of(range(1, 2)))
    assert torch.equal(last.marks, each[1].marks)


def test_teachers_stop_by_their_tasks_metric(base, asked) -> None:
    functional, _, framing = asked
    answers = {name: ["yes" if i % 2 == k else "no" for i in range(12)] for k, name in enumerate(("one", "other"))}
    examples = {
        name: [Example(letters * 2, word) for letters, word in zip(LETTERS * 2, words, strict=True)] for name, words in answers.items()
    }
    zoo = ZooConfig(steps=6, batch_size=1, check_interval=1, solved_exact_match=0.5, solved_checks=1, learning_rate=1e-6)
    chosen = [("exact_match", "one"), ("choice", "one"), ("choice", "other")]
    lessons = [make_lesson(framing, task(metric, examples[name], metric + name), 0) for metric, name in chosen]
    trained = train_adapters(functional, lessons, LoRAConfig(rank=2, target_modules=["q_proj", "v_proj"]), zoo, framing.pad)
    assert trained.validation[0] == 0
    assert trained.steps[0] == 6
    assert sum(trained.validation[1:]) == 1  # the untrained base says neither word; what is likelier is right of one task or half of both
    assert min(trained.steps[1:]) == 1


def write_suite(folder: Path, rows: list[dict], outputs: list[str]) -> Path:
    suite = TaskSuite("s", {row["task"]: task("exact_match", [Example("i", text) for text in outputs], row["task"]) for row in rows})
    suite.save(folder)
    lines = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    (folder / "tasks.jsonl").write_text("".join(json.dumps({**line, **row}) + "\n" for line, row in zip(lines, rows, strict=True)))
    return folder


def test_a_suite_keeps_its_metrics(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path / "a", [{"task": "t", "metric": "choice"}], ["x", "y"]))
    suite.save(tmp_path / "b")
    again = load_suite(tmp_path / "b")
    assert again["t"].metric == "choice"
    assert "options" not in (tmp_path / "b" / "tasks.jsonl").read_text()  # derived, and read again from the examples
    assert again.content_hash == suite.content_hash
    plain = dataclasses.replace(suite["t"], metric="exact_match")
    assert plain.content() != suite["t"].content()
    assert "metric" not in plain.content()


@pytest.mark.parametrize(
    ("metric", "outputs", "message"),
    [
        ("rouge", ["x", "y"], r"tasks\.jsonl:1: metric: 'rouge' is no metric; choose one of exact_match, token_f1, numeric, choice"),
        ("choice", ["x", "x"], r"task 't' is a choice among 1 answers; it needs 2 to 100"),
        ("numeric", ["1", "two"], r"task 't' is numeric, but its answer 'two' has no number"),
    ],
)
def test_metrics_that_cannot_judge_are_refused(tmp_path: Path, metric: str, outputs: list[str], message: str) -> None:
    folder = write_suite(tmp_path / "a", [{"task": "t", "metric": metric}], outputs)
    with pytest.raises(InputError, match=message):
        load_suite(folder)
