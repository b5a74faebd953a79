"""Teachers trained together learn as if alone, stop when solved, and survive interruption to the bit."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from damage import FILE, flip, spoil, swap, truncate
from peft import PeftModel
from tolerance import assert_near

from llgbm.config import ExperimentConfig, LoRAConfig, ZooConfig
from llgbm.dataset import pad_id
from llgbm.errors import InputError
from llgbm.files import hash_file
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import target_shapes
from llgbm.tracking.lock import hold
from llgbm.zoo.base import Base, load_base
from llgbm.zoo.build import build_zoo
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.trainer import TeacherGroup, clip_each, initial_factors, learning_rate_at, make_lesson, train_adapters

LORA = LoRAConfig(rank=2, alpha=4, target_modules=["q_proj", "v_proj"])
ZOO = ZooConfig(steps=4, batch_size=2, check_interval=4, adapters_per_batch=2)
NAMES = ["reverse-lower-plain", "double-digits-plain", "kind-first-stars"]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("micro")


@pytest.fixture(scope="module")
def functional(base: Base) -> FunctionalLoRA:
    return FunctionalLoRA(base.model, target_shapes(base.model, LORA.target_modules))


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return micro_suite(n_train=20, n_test=4).select(NAMES)


def _config(folder: Path, suite: TaskSuite, **zoo: object) -> ExperimentConfig:
    suite.save(folder / "suite")
    settings = dataclasses.replace(ZOO, suite=str(folder / "suite"), **zoo)  # type: ignore[arg-type]
    return ExperimentConfig(lora=LORA, zoo=settings, checkpoint_folder=str(folder / "zoo"), output_dir=str(folder / "outputs"))


def _hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hash_file(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "metadata.json"}


def test_adapters_as_people_have_them_start_and_rank_each_on_its_own(base: Base, functional: FunctionalLoRA, suite: TaskSuite) -> None:
    lessons, pad = [make_lesson(Framing.of(base, suite), task, 0) for task in suite], pad_id(base.tokenizer)
    alike = initial_factors(functional, lessons, LORA, ZOO)
    assert all(torch.equal(a[0], a[1]) and torch.equal(a[0], a[2]) for a in alike.a.values())
    own = dataclasses.replace(ZOO, own_start=True, ranks=[1, 2, 5])
    start, trained = initial_factors(functional, lessons, LORA, own), train_adapters(functional, lessons, LORA, own, pad).factors
    ranks = next(iter(trained.ranks.values()))
    assert len(set(ranks)) > 1
    assert set(ranks) <= {1, 2, 5}
    for name, a in trained.a.items():
        assert trained.ranks[name] == start.ranks[name] == ranks
        assert torch.equal(trained.scaling[name], torch.full((3,), 2.0))
        assert not torch.equal(start.a[name][0, 0], start.a[name][1, 0])
        for k, rank in enumerate(ranks):
            assert not a[k, rank:].any()
            assert not trained.b[name][k, :, rank:].any()
            assert trained.b[name][k, :, :rank].any()


@pytest.mark.numeric
def test_together_equals_alone(suite: TaskSuite) -> None:
    """With the base in float64: in float32 AdamW makes a whole step of a gradient that is only rounding, whatever its size."""
    micro = load_base("micro")
    base = dataclasses.replace(micro, model=micro.model.double())
    functional = FunctionalLoRA(base.model, target_shapes(base.model, LORA.target_modules))
    lessons = [make_lesson(Framing.of(base, suite), task, 0) for task in suite]
    pad = pad_id(base.tokenizer)
    together = train_adapters(functional, lessons, LORA, ZOO, pad).factors
    for k, lesson in enumerate(lessons):
        alone = train_adapters(functional, [lesson], LORA, ZOO, pad).factors
        for name in alone.a:
            for one, other in ((together.a[name][k], alone.a[name][0]), (together.b[name][k], alone.b[name][0])):
                assert_near(one, other, length=512, depth=ZOO.steps)  # factors and AdamW's moments are float32


def test_batch_mates_change_neither_steps_nor_weights(suite: TaskSuite) -> None:
    """On a base in float64 only the factors' own float32 rounds: each of the steps may round one number differently, by an ulp."""
    whole = load_base("micro")
    wide = FunctionalLoRA(whole.model.double(), target_shapes(whole.model, LORA.target_modules))
    lessons = [make_lesson(Framing.of(whole, suite), task, 0) for task in suite]
    lessons[1] = dataclasses.replace(lessons[1], validation=lessons[1].validation.rows([0]))  # solved when this one answer is
    zoo = dataclasses.replace(ZOO, steps=12, check_interval=1, solved_exact_match=1e-9, solved_checks=1, learning_rate=1e-2)
    together = train_adapters(wide, lessons, LORA, zoo, pad_id(whole.tokenizer))
    assert len(set(together.steps)) > 1  # some leave before others
    for k, lesson in enumerate(lessons):
        alone = train_adapters(wide, [lesson], LORA, zoo, pad_id(whole.tokenizer))
        assert (alone.steps[0], alone.validation[0]) == (together.steps[k], together.validation[k])
        for ours, theirs in zip(together.factors.select([k]).tensors(), alone.factors.tensors(), strict=True):
            ulp = torch.finfo(torch.float32).eps * float(theirs.abs().max())
            assert float((ours - theirs).abs().max()) <= zoo.steps * ulp


def test_micro_batches_clipping_and_recomputing_take_the_same_steps(suite: TaskSuite, monkeypatch) -> None:
    """With the base in float64; AdamW divides a gradient by its own size, and with it the rounding of sums over parts."""
    whole = load_base("micro")
    whole.model.double()
    lessons = [make_lesson(Framing.of(whole, suite), task, 0) for task in suite]
    zoo = dataclasses.replace(ZOO, batch_size=3, max_grad_norm=0.01)

    def trained(at_once: int, **settings: object) -> list[torch.Tensor]:
        wide = FunctionalLoRA(whole.model, target_shapes(whole.model, LORA.target_modules))
        monkeypatch.setattr("llgbm.zoo.trainer.rows_at_once", lambda *args, **kwargs: at_once)
        chosen = dataclasses.replace(zoo, **settings)  # type: ignore[arg-type]
        return train_adapters(wide, lessons, LORA, chosen, pad_id(whole.tokenizer)).factors.tensors()

    together, unclipped = trained(9), trained(9, max_grad_norm=None)
    assert any(not torch.equal(ours, theirs) for ours, theirs in zip(together, unclipped, strict=True))
    for other in (trained(4), trained(2), trained(1, gradient_checkpointing=True)):
        for ours, theirs in zip(other, together, strict=True):
            assert float((ours - theirs).abs().max()) <= 0.01 * zoo.learning_rate  # a step is one learning rate


@pytest.mark.parametrize("at_once", [9, 4, 2, 1])
def test_gradients_of_micro_batches_add_up_to_those_of_the_mean_loss(suite: TaskSuite, monkeypatch, at_once: int) -> None:
    whole, each = load_base("micro"), 3
    whole.model.double()
    wide = FunctionalLoRA(whole.model, target_shapes(whole.model, LORA.target_modules))
    monkeypatch.setattr("llgbm.zoo.trainer.rows_at_once", lambda *args, **kwargs: at_once)
    lessons = [make_lesson(Framing.of(whole, suite), task, 0) for task in suite]
    group, twin = (TeacherGroup(wide, lessons, LORA, dataclasses.replace(ZOO, batch_size=each), pad_id(whole.tokenizer)) for _ in "12")
    for factors in (group.factors, twin.factors):
        for b in factors.b.values():
            torch.nn.init.normal_(b, std=0.02, generator=torch.Generator().manual_seed(1))
    group.step(1)
    batch = twin._draw()
    logits = wide(twin.factors, batch.input_ids, batch.attention_mask, logits_at=batch.predicts).logits
    assert logits is not None
    owner = (torch.arange(len(batch)) // each).repeat_interleave(batch.predicts.sum(1))
    nll = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    sum(nll[owner == k].mean() for k in range(len(lessons))).backward()  # type: ignore[union-attr]
    for ours, theirs in zip(group.factors.tensors(), twin.factors.tensors(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.stride() == ours.stride()  # else the fused optimizer updates other numbers than those that moved
        assert_near(ours.grad, theirs.grad, length=512, depth=2)  # losses and sums over parts are float32


def test_clipping_is_that_of_torch_for_each_adapter() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.zeros(3, 2, 5), torch.zeros(3, 4, 2)]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * torch.tensor([0.01, 1.0, 9.0])[:, None, None]
    singles = [[torch.nn.Parameter(p[k].clone()) for p in parameters] for k in range(3)]
    for k, single in enumerate(singles):
        for one, parameter in zip(single, parameters, strict=True):
            assert parameter.grad is not None
            one.grad = parameter.grad[k].clone()
        torch.nn.utils.clip_grad_norm_(single, 1.0)
    clip_each(parameters, 1.0)
    for k, single in enumerate(singles):
        for one, parameter in zip(single, parameters, strict=True):
            torch.testing.assert_close(parameter.grad[k], one.grad)


def test_the_learning_rate_warms_up_and_stays_or_falls_to_zero() -> None:
    stays, falls = (ZooConfig(steps=100, learning_rate=1.0, schedule=schedule) for schedule in ("constant", "linear"))
    assert [learning_rate_at(step, stays) for step in (1, 5, 6, 100)] == [0.2, 1.0, 1.0, 1.0]
    assert [learning_rate_at(step, falls) for step in (1, 5, 53, 100)] == pytest.approx([0.2, 1.0, 0.5, 1 / 96])


def test_seed_decides_start_and_order(base: Base, functional: FunctionalLoRA, suite: TaskSuite) -> None:
    task, pad = next(iter(suite)), pad_id(base.tokenizer)
    lessons = [make_lesson(Framing.of(base, suite), task, seed) for seed in (0, 0, 1)]
    hashes = [train_adapters(functional, [lesson], LORA, ZOO, pad).factors.content_hash() for lesson in lessons]
    assert hashes[0] == hashes[1] != hashes[2]


def test_validation_is_kept_from_training(base: Base, suite: TaskSuite) -> None:
    task = next(iter(suite))
    lesson = make_lesson(Framing.of(base, suite), task, 0)
    assert (len(lesson.train), len(lesson.validation)) == (16, 4)
    few = dataclasses.replace(task, train=task.train[:3])
    lesson = make_lesson(Framing.of(base, suite), few, 0)
    assert (len(lesson.train), len(lesson.validation)) == (3, 3)


def test_solved_adapters_leave_early_and_are_solved(base: Base) -> None:
    suite = micro_suite(n_train=160, n_test=4).select(["reverse-lower-plain", "increment-digits-plain"])
    lora = LoRAConfig(rank=4, alpha=8)
    functional = FunctionalLoRA(base.model, target_shapes(base.model, lora.target_modules))
    lessons = [make_lesson(Framing.of(base, suite), task, 0) for task in suite]
    zoo = ZooConfig(steps=150, batch_size=8, check_interval=10)
    trained = train_adapters(functional, lessons, lora, zoo, pad_id(base.tokenizer))
    assert all(steps < 150 and steps % 10 == 0 for steps in trained.steps)
    assert trained.validation == [1.0, 1.0]


@pytest.mark.parametrize("settings", [{}, {"own_start": True, "ranks": [1, 2, 5]}])
def test_a_training_goes_on_from_each_of_its_checks_to_the_same_bits(
    base: Base, functional: FunctionalLoRA, suite: TaskSuite, settings
) -> None:
    lessons, pad = [make_lesson(Framing.of(base, suite), task, 0) for task in suite], pad_id(base.tokenizer)
    lessons[1] = dataclasses.replace(lessons[1], validation=lessons[1].validation.rows([0]))  # solved when this one answer is
    early = {"solved_exact_match": 1e-9, "solved_checks": 2, "learning_rate": 1e-2, "schedule": "linear"}
    zoo = dataclasses.replace(ZOO, steps=16, check_interval=2, **early, **settings)
    states: dict[int, dict[str, torch.Tensor]] = {}
    whole = train_adapters(functional, lessons, LORA, zoo, pad, on_check=lambda step, state: states.update({step: copy.deepcopy(state)}))
    active = [len(state["active"]) for state in states.values()]
    assert len(set(active)) > 1  # some states are of adapters that have left
    for step, state in states.items():
        steps: list[int] = []
        again = train_adapters(functional, lessons, LORA, zoo, pad, lambda at, *_, steps=steps: steps.append(at), state)
        assert steps[0] == step + 1
        assert (again.steps, again.validation) == (whole.steps, whole.validation)
        assert [again.factors.content_hash(k) for k in range(3)] == [whole.factors.content_hash(k) for k in range(3)]


def test_dropout_is_refused(base: Base, functional: FunctionalLoRA, suite: TaskSuite) -> None:
    lesson = make_lesson(Framing.of(base, suite), next(iter(suite)), 0)
    with pytest.raises(InputError, match=r"lora.dropout is 0.1; teachers train without dropout"):
        train_adapters(functional, [lesson], dataclasses.replace(LORA, dropout=0.1), ZOO, 0)


def test_zoo_folder_is_complete_and_loads_in_plain_peft(base: Base, suite: TaskSuite, tmp_path: Path) -> None:
    config = _config(tmp_path, suite, seeds=[0, 1])
    zoo = build_zoo(config)
    assert len(zoo.teachers) == 6
    assert {t.split for t in zoo.teachers} <= {"seen", "unseen_combination"}
    assert TeacherZoo.load(tmp_path / "zoo").content_hash == zoo.content_hash
    teacher = zoo.teachers[0]
    assert teacher.path == f"{teacher.domain}/{teacher.task}/seed{teacher.seed}"
    assert json.loads((zoo.folder / teacher.path / "prompts.json").read_text()) == list(suite[teacher.task].prompts)
    assert json.loads((zoo.folder / "metadata.json").read_text())["state"] == "COMPLETED"
    assert zoo.suite == suite
    assert len(zoo.select(seed=1)) == 3
    loaded = PeftModel.from_pretrained(load_base("micro").model, zoo.folder / teacher.path)
    assert loaded.peft_config["default"].r == 2
    assert zoo.factors(zoo.teachers[:2]).n_adapters == 2


def test_second_build_trains_nothing(suite: TaskSuite, tmp_path: Path) -> None:
    config = _config(tmp_path, suite)
    build_zoo(config)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").rglob("*.safetensors")}
    build_zoo(config)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").rglob("*.safetensors")} == before


def test_a_build_says_which_teachers_stay_near_the_base_and_which_examples_are_left_out(suite: TaskSuite, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="llgbm")
    framing = Framing.of(load_base("micro"), suite)
    lengths = [sum(map(len, framing.ids(example))) for task in suite for example in (*task.train, *task.test)]
    short = max(lengths) - 1
    build_zoo(_config(tmp_path, suite, steps=1, max_length=short))
    assert "3 of 3 teachers answer no better than the base alone (" in caplog.text
    assert "begin with the preset real_base" in caplog.text
    assert f"{lengths.count(max(lengths))} of 72 examples do not fit into {short} tokens and are left out" in caplog.text
    caplog.clear()
    build_zoo(_config(tmp_path, suite, steps=1, max_length=short))
    assert not {"llgbm.zoo.build", "llgbm.zoo.check"} & {record.name for record in caplog.records}  # nothing was trained


@pytest.mark.slow
def test_a_build_of_teachers_that_learned_warns_of_nothing(suite: TaskSuite, tmp_path: Path, caplog) -> None:
    learned = build_zoo(_config(tmp_path, suite.select(NAMES[:1]), steps=400, batch_size=8, learning_rate=5e-3, check_interval=20))
    assert learned.teachers[0].exact_match > 0.5
    assert "no better than the base" not in caplog.text


def test_a_second_build_is_refused_while_the_first_lives(suite: TaskSuite, tmp_path: Path) -> None:
    config = _config(tmp_path, suite)
    with hold(config.checkpoint_folder), pytest.raises(InputError, match=r"zoo: process \d+ has worked there since"):
        build_zoo(config)
    assert not (tmp_path / "zoo").exists()


def test_new_tasks_and_seeds_touch_nothing_that_is_there(suite: TaskSuite, tmp_path: Path) -> None:
    more = micro_suite(n_train=20, n_test=4).select([*NAMES, "increment-digits-plain", "reverse-lower-stars"])
    build_zoo(_config(tmp_path, suite))
    before = _hashes(tmp_path / "zoo")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").rglob("*") if p.is_file() and p.parent != tmp_path / "zoo"}
    zoo = build_zoo(_config(tmp_path, more, seeds=[0, 1], adapters_per_batch=4))
    assert len(zoo.teachers) == 10
    assert zoo.suite == more
    assert {p: p.stat().st_mtime_ns for p in times} == times
    after = _hashes(tmp_path / "zoo")
    assert {p: after[p] for p in before if p != "manifest.json"} == {p: before[p] for p in before if p != "manifest.json"}
    (zoo.folder / zoo.teachers[1].path / "adapter_model.safetensors").unlink()
    build_zoo(_config(tmp_path, more, seeds=[1], adapters_per_batch=4))  # seed 0 is not asked for
    assert not (zoo.folder / zoo.teachers[1].path / "adapter_model.safetensors").exists()
    build_zoo(_config(tmp_path, more, seeds=[0, 1], adapters_per_batch=4))
    assert _hashes(tmp_path / "zoo") == after


def test_build_interrupted_in_its_first_batch_begins_anew(suite: TaskSuite, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, **figures: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_zoo(_config(tmp_path, suite), interrupt)
    assert json.loads((tmp_path / "zoo" / "manifest.json").read_text())["teachers"] == []
    assert len(build_zoo(_config(tmp_path, suite, steps=5)).teachers) == 3  # other settings: there is nothing to keep


def test_suite_whose_tasks_changed_or_went_is_refused(suite: TaskSuite, tmp_path: Path) -> None:
    build_zoo(_config(tmp_path, suite))
    task = suite[NAMES[0]]
    changed = dataclasses.replace(suite, tasks={**suite.tasks, task.name: dataclasses.replace(task, train=task.train[1:])})
    for other in (changed, suite.select(NAMES[1:]), dataclasses.replace(suite, frame="{input} ")):
        with pytest.raises(InputError, match="holds a zoo with another suite"):
            build_zoo(_config(tmp_path, other))


def test_lost_and_damaged_adapters_are_trained_again_to_the_same_bits(suite: TaskSuite, tmp_path: Path) -> None:
    config = _config(tmp_path, suite, seeds=[0, 1])
    zoo = build_zoo(config)
    folders = [zoo.folder / teacher.path for teacher in zoo.teachers]
    before, whole = _hashes(tmp_path / "zoo"), (folders[5] / FILE).stat().st_mtime_ns
    for one, damage in zip(folders, (swap, flip, truncate, spoil), strict=False):
        damage(one, folders[5])
    (folders[4] / FILE).unlink()
    assert zoo.damaged().keys() == {teacher.path for teacher in zoo.teachers[:5]}
    build_zoo(config)
    assert not zoo.damaged()
    assert _hashes(tmp_path / "zoo") == before
    assert (folders[5] / FILE).stat().st_mtime_ns == whole


@pytest.mark.parametrize(("change", "key"), [({"steps": 5}, "zoo"), ({"learning_rate": 1e-3}, "zoo")])
def test_folder_of_other_settings_is_refused(suite: TaskSuite, tmp_path: Path, change: dict, key: str) -> None:
    build_zoo(_config(tmp_path, suite))
    with pytest.raises(InputError, match=f"holds a zoo with another {key}"):
        build_zoo(_config(tmp_path, suite, **change))


def test_folder_without_manifest_and_with_a_foreign_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a zoo \(no manifest.json\)"):
        TeacherZoo.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest.json, which .llgbm zoo build. writes anew: base is missing"):
        TeacherZoo.load(tmp_path)


def test_changed_suite_is_noticed(suite: TaskSuite, tmp_path: Path) -> None:
    build_zoo(_config(tmp_path, suite))
    path = tmp_path / "suite" / "test.jsonl"
    path.write_text(path.read_text().replace('"output": "', '"output": "x', 1))
    with pytest.raises(InputError, match="built on another version of suite"):
        _ = TeacherZoo.load(tmp_path / "zoo").suite


@pytest.mark.slow
def test_kill_9_loses_at_most_a_batch_and_ends_with_the_same_bits(suite: TaskSuite, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    config = _config(tmp_path / "whole", suite, steps=40, check_interval=40, adapters_per_batch=1)
    build_zoo(config)
    suite.save(tmp_path / "killed" / "suite")
    config.save(tmp_path / "config.yaml")
    command = [sys.executable, "-m", "llgbm", "zoo", "build", "--config_file", str(tmp_path / "config.yaml")]
    command += ["--checkpoint_folder", str(tmp_path / "killed" / "zoo"), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        before = len(list((tmp_path / "killed" / "zoo").rglob("adapter_model.safetensors")))
        while process.poll() is None and len(list((tmp_path / "killed" / "zoo").rglob("adapter_model.safetensors"))) == before:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 2
    assert {k: v for k, v in _hashes(tmp_path / "killed" / "zoo").items() if k.endswith(".safetensors")} == {
        k: v for k, v in _hashes(tmp_path / "whole" / "zoo").items() if k.endswith(".safetensors")
    }
