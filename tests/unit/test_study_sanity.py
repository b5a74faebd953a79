"""Checks before a comparison: they pass where models learn, and fail where something is wrong."""

from pathlib import Path

import pytest
import torch
from scipy import stats
from study_world import TASK, small_study

from llgbm.errors import InputError
from llgbm.files import read_json, write_text
from llgbm.study.backbone import load_backbone
from llgbm.study.meter import Meter
from llgbm.study.sanity import check_overfit, check_shuffled, check_start, most_by_chance, run_check
from llgbm.study.tasks.generation import GenerationTask

QUICK = {"checks__overfit_examples": 8, "checks__overfit_epochs": 24, "full__learning_rate": 1e-3, "lora__learning_rate": 5e-3}


def test_checks_pass_on_a_task_that_can_be_learned_and_are_made_once(tmp_path: Path) -> None:
    study = small_study(tmp_path, **QUICK)
    found = run_check(study)
    assert [(check.method, check.name, check.passed) for check in found.checks] == [
        (method, name, True) for method in ("full", "lora") for name in ("start", "overfit", "shuffled")
    ]
    assert set(found.baselines[TASK]) == {"majority", "random", "untrained"}
    written = (tmp_path / "checks.json").stat().st_mtime_ns
    assert run_check(study) == found
    assert (tmp_path / "checks.json").stat().st_mtime_ns == written
    assert len(found.rows()) == 6 + 4


def test_checks_that_are_there_stay_and_missing_ones_are_added(tmp_path: Path) -> None:
    run_check(small_study(tmp_path, methods=["lora"], **QUICK))
    before = read_json(tmp_path / "checks.json")
    found = run_check(small_study(tmp_path, methods=["lora", "full"], **QUICK))
    assert read_json(tmp_path / "checks.json")["checks"][:3] == before["checks"]
    assert len(found.checks) == 6


def test_a_model_that_cannot_learn_is_found(tmp_path: Path) -> None:
    study = small_study(tmp_path, full__learning_rate=1e-9, checks__overfit_examples=8, checks__overfit_epochs=2)
    task = GenerationTask.micro(TASK, load_backbone(study.config), study.config.sizes)
    found = check_overfit(study, task, "full", Meter(0))
    assert not found.passed
    assert found.value < 0.5
    assert found.expected == "at least 0.95 exact_match on 8 train examples, learned by heart"


def test_a_start_that_is_not_the_bases_is_found(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    backbone = load_backbone(study.config)
    task = GenerationTask.micro(TASK, backbone, study.config.sizes)
    assert check_start(study, task, "lora", Meter(0)).passed

    class Moved(GenerationTask):
        def model(self, seed: int):  # type: ignore[no-untyped-def]
            model = super().model(seed)
            with torch.no_grad():
                model.get_output_embeddings().weight.mul_(3)
            return model

    assert not check_start(study, Moved(TASK, backbone, task.parts, task.framing), "full", Meter(0)).passed


@pytest.mark.slow
def test_answers_that_leak_into_shuffled_ones_are_found(tmp_path: Path) -> None:
    """Where dealing out leaves the answers as they are, the model generalizes."""
    study = small_study(tmp_path, training__epochs=12, lora__learning_rate=5e-3)
    backbone = load_backbone(study.config)
    task = GenerationTask.micro(TASK, backbone, study.config.sizes)

    class Leaking(GenerationTask):
        def shuffled(self, seed: int) -> "Leaking":
            return self

    assert check_shuffled(study, task, "lora", Meter(0)).passed
    assert not check_shuffled(study, Leaking(TASK, backbone, task.parts, task.framing), "lora", Meter(0)).passed


@pytest.mark.parametrize(("chance", "examples"), [(0.5, 200), (0.3, 50), (0.0, 100)])
def test_chance_stays_below_its_bound(chance: float, examples: int) -> None:
    bound = most_by_chance(chance, examples)
    assert stats.binom.cdf(round(bound * examples), examples, chance) >= 0.999
    assert bound < chance + 0.3


def test_damaged_checks_are_named(tmp_path: Path) -> None:
    write_text(tmp_path / "checks.json", '{"checks": [{"task": "a"}]}')
    with pytest.raises(InputError, match=r"checks\.json: checks\[0\]\.method is missing"):
        run_check(small_study(tmp_path))
