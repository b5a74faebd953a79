"""MicroZoo's tasks in a study: scored as decoding would, shuffled and baselined as said."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from study_world import TASK, small_config
from tolerance import assert_near, depth

from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.scoring import score
from llgbm.study.backbone import Backbone, load_backbone
from llgbm.study.config import build_study
from llgbm.study.tasks.generation import GenerationTask
from llgbm.study.tasks.named import load_task, load_tasks
from llgbm.study.training import build_model, fit

CONFIG = small_config(sizes__test_examples=12, sizes__train_examples=96)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(CONFIG)


@pytest.fixture(scope="module")
def task(backbone: Backbone) -> GenerationTask:
    return GenerationTask.micro(TASK, backbone, CONFIG.sizes)


def test_exact_match_is_what_greedy_decoding_says(task: GenerationTask) -> None:
    """Half trained, so that some answers are right and some wrong."""
    model = build_model(task, "full", replace(CONFIG.full, learning_rate=3e-4), 0)
    fit(task, model, replace(CONFIG.full, learning_rate=3e-4), CONFIG.training, 0)
    found = task.score(model, "test")
    said = []
    for example in task.parts.test:
        prompt, _ = task.framing.ids(example)
        with torch.no_grad():
            out = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=task.framing.end)
        said.append(float(task.framing.text(out[0, len(prompt) :].tolist()) == example.output))
    assert 0 < sum(said) < len(said)
    assert found.scores == said
    assert found.metrics["exact_match"] == pytest.approx(sum(said) / len(said))


def test_the_nll_is_that_of_the_package(task: GenerationTask, backbone: Backbone) -> None:
    found = task.score(backbone.model, "test").metrics["nll"]
    expected = score(FunctionalLoRA(backbone.model, {}), None, task.framing.batch(task.parts.test))
    assert_near(found, expected.nll, length=backbone.model.config.hidden_size, depth=depth(backbone.model.config.num_hidden_layers))


def test_answers_are_shuffled_and_inputs_stay(task: GenerationTask) -> None:
    dealt = task.shuffled(0)
    assert [one.input for one in dealt.parts.train] == [one.input for one in task.parts.train]
    assert Counter(one.output for one in dealt.parts.train) == Counter(one.output for one in task.parts.train)
    assert sum(a.output == b.output for a, b in zip(dealt.parts.train, task.parts.train, strict=True)) < len(task.parts.train) / 4
    assert (dealt.parts.validation, dealt.parts.test) == (task.parts.validation, task.parts.test)
    assert task.shuffled(0) == dealt
    assert task.shuffled(1) != dealt


def test_baselines_are_what_they_say(backbone: Backbone) -> None:
    task = GenerationTask.micro("kind-first-brackets", backbone, CONFIG.sizes)
    found = task.baselines()
    common = Counter(one.output for one in task.parts.train).most_common(1)[0][0]
    assert found["majority"]["exact_match"] == sum(one.output == common for one in task.parts.test) / len(task.parts.test)
    assert found["untrained"] == task.score(backbone.model, "test").metrics
    assert 0 <= found["random"]["exact_match"] < 1


def test_no_train_example_is_a_test_example(task: GenerationTask) -> None:
    inputs = {part: set(task.example_ids(part)) for part in ("train", "validation", "test")}
    assert not inputs["train"] & inputs["validation"]
    assert not (inputs["train"] | inputs["validation"]) & inputs["test"]


def test_probes_are_the_first_test_examples(task: GenerationTask) -> None:
    assert task.probes(2) == [row["input_ids"] for row in task.rows("test")[:2]]


def test_an_encoder_writes_nothing(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="its answers are written, and micro is an encoder; take mrpc"):
        GenerationTask.micro(TASK, replace(backbone, is_encoder=True), CONFIG.sizes)


def test_an_unknown_task_is_named(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="unknown task 'reverse-lower-bracket'; did you mean reverse-lower-brackets"):
        load_task("reverse-lower-bracket", backbone, CONFIG)
    with pytest.raises(InputError, match="unknown task 'mrcp'; did you mean mrpc"):
        load_tasks(build_study({"sizes": {"train_examples_of": {"mrcp": 8}}}))
