"""SQuAD 2.0 in a study: articles never mix, both heads learn, whatever is broken is named."""

import json
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shared_data import SHARED_DATA, needs_shared_data
from study_world import small_config
from tiny_encoder import TARGETS, save_tiny_encoder

from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.study.config import StudyConfig
from llgbm.study.folder import Study
from llgbm.study.meter import Meter
from llgbm.study.runs import run_runs
from llgbm.study.sanity import check_start
from llgbm.study.tasks.named import load_tasks
from llgbm.study.tasks.span import SpanTask, random_span, read_questions
from llgbm.study.training import build_model, fit

NAMES = ["anna", "bert", "carl", "dora", "emil", "fritz", "gerda", "hans"]
PLACES = ["york", "paris", "rome", "oslo", "bern", "lima"]


def _article(number: int) -> dict[str, Any]:
    """Contexts that say where somebody lives, and questions about them and about somebody else."""
    drawn, paragraphs = random.Random(number), []
    for k in range(6):
        one, other = drawn.sample(NAMES, 2)
        place = drawn.choice(PLACES)
        context = f"they say that {one} lives in {place} now and likes it" + " as all of them have done there since then" * (k % 2)
        here = [{"text": place, "answer_start": context.index(place)}]
        qas = [{"id": f"{number}-{k}-{who}", "question": f"where does {who} live", "answers": a} for who, a in ((one, here), (other, []))]
        paragraphs.append({"context": context, "qas": qas})
    return {"title": f"article {number}", "paragraphs": paragraphs}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("bert"))


def _config(folder: Path, encoder: Path | None, **changes: Any) -> StudyConfig:
    write_json(folder / "squad.json", {"data": [_article(number) for number in range(9)]})
    sizes = {"sizes__train_examples": 60, "sizes__validation_examples": 12, "sizes__test_examples": 30, "sizes__max_length": 96}
    settings: dict[str, Any] = {"tasks": ["squad_v2"], "squad": str(folder / "squad.json"), **sizes, **changes}
    if encoder is not None:
        settings |= {"architecture": "encoder", "model__name": str(encoder), "lora__target_modules": TARGETS}
    return small_config(**settings)


@pytest.fixture(params=["decoder", "encoder"])
def config(request: pytest.FixtureRequest, tmp_path: Path, encoder: Path) -> StudyConfig:
    return _config(tmp_path, encoder if request.param == "encoder" else None)


def _task(config: StudyConfig) -> SpanTask:
    task = load_tasks(config)["squad_v2"]
    assert isinstance(task, SpanTask)
    return task


def test_no_article_is_in_two_parts(config: StudyConfig) -> None:
    parts = _task(config).parts
    articles = {part: {question.article for question in parts[part]} for part in ("train", "validation", "test")}
    assert all(articles.values())
    assert not articles["train"] & articles["validation"]
    assert not (articles["train"] | articles["validation"]) & articles["test"]
    assert len(parts.validation) == 12


@pytest.mark.slow
def test_both_heads_learn(tmp_path: Path, encoder: Path) -> None:
    config = _config(tmp_path, encoder)
    task = _task(config)
    settings = replace(config.full, learning_rate=5e-3, batch_size=8)
    fitted = fit(task, build_model(task, "full", settings, 0), settings, config.training, 0, epochs=30)
    found, nothing = task.score(fitted.model, "test"), task.baselines()["no_answer"]
    assert found.metrics["f1"] > nothing["f1"] + 0.1
    assert found.metrics["has_answer_f1"] > 0.5
    assert found.metrics["f1"] == pytest.approx(sum(found.scores) / len(found.scores))


@pytest.mark.slow
def test_runs_by_either_method_keep_their_heads(config: StudyConfig, tmp_path: Path) -> None:
    study = Study.open(config, tmp_path / "study")
    full, lora = run_runs(study).results
    assert full.metric == "f1"
    assert {"exact", "f1", "answerability"} <= set(full.metrics)
    assert full.example_ids == [question.id for question in _task(config).parts.test]
    assert lora.trainable_parameters < full.trainable_parameters
    whole = load_file(study.run_folder("squad_v2", "full", 0) / "model" / "model.safetensors")
    adapter = load_file(study.run_folder("squad_v2", "lora", 0) / "adapter" / "adapter_model.safetensors")
    for head in ("span.weight", "answerable.weight"):
        assert head in whole
        assert any(name.endswith(head) for name in adapter)
    states = load_file(study.states("squad_v2", "lora", 0)[0])
    assert states["cosine"].min() > 0.999


def test_training_starts_at_the_loss_of_an_even_guess(config: StudyConfig, tmp_path: Path) -> None:
    found = check_start(Study.open(config, tmp_path / "study"), _task(config), "full", Meter(0))
    assert found.passed
    assert "tokens of the context" in found.expected


def test_heads_follow_the_seed(config: StudyConfig) -> None:
    task = _task(config)
    states = [task.model(seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    differing = {name.split(".")[0] for name in states[0] if not torch.equal(states[0][name], states[2][name])}
    assert differing == {"span", "answerable"}


def test_answers_are_dealt_out_anew(config: StudyConfig) -> None:
    task = _task(config)
    dealt = task.shuffled(0)
    assert [q.question for q in dealt.parts.train] == [q.question for q in task.parts.train]
    assert sum(bool(q.answers) for q in dealt.parts.train) == sum(bool(q.answers) for q in task.parts.train)
    assert sum(a.answers == b.answers for a, b in zip(dealt.parts.train, task.parts.train, strict=True)) < 0.7 * len(task.parts.train)
    for question in dealt.parts.train:
        for text, start in question.answers:
            assert question.context[start : start + len(text)] == text


def test_baselines_are_what_they_say(config: StudyConfig) -> None:
    task = _task(config)
    found = task.baselines()
    unanswerable = sum(not question.answers for question in task.parts.test) / len(task.parts.test)
    assert found["no_answer"]["f1"] == found["no_answer"]["exact"] == pytest.approx(unanswerable)
    assert found["random"]["f1"] < unanswerable
    assert task.chance() == pytest.approx(sum(not question.answers for question in task.parts.validation) / 12)


def test_long_contexts_are_read_in_windows(tmp_path: Path, encoder: Path) -> None:
    task = _task(_config(tmp_path, encoder, sizes__max_length=24))
    windows = task.windows("test")
    assert len(windows) > len(task.parts.test)
    assert len({len(window.tokens) for window in windows}) > 1
    assert max(len(window.tokens) for window in windows) <= 24
    assert len(task.score(task.model(0), "test").scores) == len(task.parts.test)


def test_random_answers_are_in_their_context() -> None:
    drawn = random.Random(0)
    for _ in range(50):
        text, start = random_span(" one two  three four\nfive", drawn)
        assert " one two  three four\nfive"[start : start + len(text)] == text
        assert 1 <= len(text.split()) <= 3


def test_broken_questions_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    articles = [_article(number) for number in range(4)]
    articles[0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 0
    del articles[1]["paragraphs"][0]["qas"][1]["question"]
    write_json(tmp_path / "squad.json", {"data": articles})
    with caplog.at_level(logging.WARNING):
        train, test = read_questions(str(tmp_path / "squad.json"))
    assert len(train) + len(test) == 46
    assert "2 of 48 rows are left out" in caplog.text
    assert "is not at character 0 of its context" in caplog.text


def test_one_article_cannot_train_and_test(tmp_path: Path) -> None:
    write_json(tmp_path / "squad.json", {"data": [_article(0)]})
    with pytest.raises(InputError, match="holds one article, 'article 0', which cannot both train and test"):
        read_questions(str(tmp_path / "squad.json"))


def test_a_folder_has_both_splits(tmp_path: Path) -> None:
    write_json(tmp_path / "train-v2.0.json", {"data": [_article(0), _article(1)]})
    with pytest.raises(InputError, match=r"dev-v2\.0\.json: no such file"):
        read_questions(str(tmp_path))
    write_json(tmp_path / "dev-v2.0.json", {"data": [_article(2)]})
    train, test = read_questions(str(tmp_path))
    assert (len(train), len(test)) == (24, 12)


@needs_shared_data
@pytest.mark.slow
def test_half_of_the_real_dev_set_is_split_by_article() -> None:
    path = SHARED_DATA / "squad_v2_cs224n" / "dev-v2.0.json"
    train, test = read_questions(str(path))
    assert len(train) + len(test) == sum(len(p["qas"]) for a in json.loads(path.read_text())["data"] for p in a["paragraphs"]) == 6078
    assert not {q.article for q in train} & {q.article for q in test}
    assert len({q.article for q in test}) == 5
