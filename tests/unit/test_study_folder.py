"""A study's folder: one config, a place for each thing, results that are checked when read."""

from dataclasses import replace
from pathlib import Path

import pytest

from llgbm.errors import InputError
from llgbm.files import read_json, write_json, write_text
from llgbm.study.config import build_study
from llgbm.study.folder import RunResult, Study

RESULT = RunResult(
    task="kind-first-plain",
    method="lora",
    seed=2,
    hyperparameters={"learning_rate": 1e-3, "rank": 4},
    metric="exact_match",
    metrics={"exact_match": 0.5, "nll": 1.25},
    scores=[0.0, 1.0],
    example_ids=["test:0", "test:1"],
    steps=12,
    seconds=1.5,
    trainable_parameters=10,
    total_parameters=100,
)


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    study = Study.open(build_study({}), tmp_path)
    assert study.result(RESULT.task, "lora", 2) is None
    study.write_result(RESULT)
    assert study.result(RESULT.task, "lora", 2) == RESULT


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    study = Study.open(build_study({}), tmp_path)
    study.write_result(RESULT)
    path = study.run_folder(RESULT.task, "lora", 2) / "result.json"
    sound = read_json(path)
    for changes, message in (
        ({"scores": [0.5]}, "1 scores for 2 examples; there is one for each, and one at least"),
        ({"scores": [], "example_ids": []}, "0 scores for 0 examples"),
        ({"scores": [0.5, 1.5]}, r"scores\[1\] must be at most 1, found 1.5"),
        ({"metric": "f1"}, "the metric 'f1' is none of exact_match, nll"),
        ({"seed": 3}, "is of kind-first-plain, lora, seed 3; remove the folder, and run it again"),
    ):
        write_json(path, sound | changes)
        with pytest.raises(InputError, match=message):
            study.result(RESULT.task, "lora", 2)


def test_a_study_goes_on_with_more_seeds_and_refuses_another_config(tmp_path: Path) -> None:
    Study.open(build_study({"lora": {"rank": 4}}), tmp_path).write_result(RESULT)
    more = build_study({"lora": {"rank": 4}, "seeds": [0, 1, 2, 3], "hypotheses": {"alpha": 0.01}, "search": {"trials": 20}})
    assert Study.open(more, tmp_path).config == more
    assert Study.load(tmp_path).config == more
    other = build_study({"lora": {"rank": 8}, "training": {"epochs": 1}})
    with pytest.raises(InputError, match=r"another config \(lora.rank is 4 there and 8 now; training.epochs is 3.0 there and 1.0 now\)"):
        Study.open(other, tmp_path)
    assert Study.load(tmp_path).config == more


def test_a_size_for_one_task_decides_results(tmp_path: Path) -> None:
    Study.open(build_study({"sizes": {"train_examples_of": {"mrpc": 8}}}), tmp_path).write_result(RESULT)
    for sizes, message in (
        ({"train_examples_of": {"mrpc": 9}}, "sizes.train_examples_of.mrpc is 8 there and 9 now"),
        ({"train_examples_of": {"mrpc": 8, "rte": 4}}, "sizes.train_examples_of.rte is None there and 4 now"),
        ({}, "sizes.train_examples_of.mrpc is 8 there and None now"),
    ):
        with pytest.raises(InputError, match=message):
            Study.open(build_study({"sizes": sizes}), tmp_path)


def test_a_folder_that_holds_only_a_config_is_begun_anew(tmp_path: Path) -> None:
    Study.open(build_study({"squad": "nowhere"}), tmp_path)
    other = build_study({"squad": "somewhere"})
    Study.open(other, tmp_path)
    assert Study.load(tmp_path).config == other


def test_a_folder_without_a_study_or_with_a_damaged_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.json: no such file"):
        Study.load(tmp_path)
    write_text(tmp_path / "study.json", '{"tasks": 3}')
    write_text(tmp_path / "checks.json", "{}")
    for opened in (Study.load, lambda folder: Study.open(build_study({}), folder)):
        with pytest.raises(InputError, match=r"study\.json: tasks must be a list of a string, found 3"):
            opened(tmp_path)


def test_names_stay_below_the_folder_and_apart(tmp_path: Path) -> None:
    study = Study(build_study({}), tmp_path)
    with pytest.raises(InputError, match="holds the separator '/'"):
        study.run_folder("../x", "full", 0)
    with pytest.raises(InputError, match="differ only by case"):
        Study(build_study({"tasks": ["mrpc", "MRPC"]}), tmp_path)


def test_states_are_found_by_step(tmp_path: Path) -> None:
    study = Study(replace(build_study({}), seeds=[5]), tmp_path)
    assert study.states("mrpc", "full", 5) == {}
    for step in (200, 0, 1000000):
        write_text(study.states_file("mrpc", "full", 5, step), "")
    write_text(study.run_folder("mrpc", "full", 5) / "states" / "step-12.txt", "")
    assert list(study.states("mrpc", "full", 5)) == [0, 200, 1000000]


def test_runs_are_every_task_method_and_seed(tmp_path: Path) -> None:
    study = Study(build_study({"tasks": ["a", "b"], "seeds": [3, 4]}), tmp_path)
    assert list(study.runs())[:3] == [("a", "full", 3), ("a", "lora", 3), ("a", "full", 4)]
    assert len(set(study.runs())) == 8
