from dataclasses import replace

import pytest
from evaluation_world import PerfectGenerator, build_evaluation_world

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.evaluation.answers import answer_examples, read_answers
from llgbm.evaluation.setting import EvaluationConfig, load_setting
from llgbm.files import read_json, write_json
from llgbm.zoo.folder import TeacherZoo


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return build_evaluation_world(folder)


@pytest.fixture
def setting(world):
    setting = load_setting(None, world, EvaluationConfig())
    setting.generator = PerfectGenerator(setting.zoo)
    return setting


def test_a_perfect_generator_answers_what_is_expected(setting, tmp_path):
    document = answer_examples(setting, n_tasks=6, n_inputs=2)
    assert [task["split"] for task in document["tasks"]] == [
        *["unseen_combination"] * 2,
        *["unseen_wording"] * 2,
        "unseen_both",
        "mixture",
    ]
    assert document["tasks"][0]["task"] == setting.questions("unseen_combination")[0].task.name
    for task in document["tasks"]:
        assert len(task["examples"]) == 2
        for row in task["examples"]:
            assert row["answers"]["generated"] == row["answers"]["teacher"] == row["expected"] == task["task"][-1]
            assert row["answers"]["base"] != row["expected"]
    assert document["tasks"][2]["description"].endswith("is all I want to hear.")
    write_json(tmp_path / "answers.json", document)
    assert read_answers(tmp_path / "answers.json") == document


@pytest.mark.parametrize("splits", [("mixture",), ("seen", "unseen_both+chatter", "mixture"), ("seen",)])
def test_the_splits_that_are_asked_for_are_shown(world, splits):
    setting = load_setting(None, world, EvaluationConfig(splits=splits))
    setting.generator = PerfectGenerator(setting.zoo)
    shown = [task["split"] for task in answer_examples(setting, n_tasks=4, n_inputs=1)["tasks"]]
    assert list(dict.fromkeys(shown)) == ([split for split in splits if split != "seen"] or ["seen"])


def test_tasks_of_splits_with_names_of_their_own_are_shown(setting, monkeypatch):
    tasks = {name: replace(task, split="mine" if task.split == "mixture" else "seen") for name, task in setting.zoo.suite.tasks.items()}
    monkeypatch.setitem(vars(setting.zoo), "suite", replace(setting.zoo.suite, tasks=tasks))
    setting.teachers = {name: replace(teacher, split=tasks[name].split) for name, teacher in setting.teachers.items()}
    assert "mine" in {task["split"] for task in answer_examples(setting, n_inputs=1)["tasks"]}


def test_tasks_without_teachers_are_answered_without_them(world):
    setting = load_setting(None, world, EvaluationConfig(splits=("mixture",)))
    setting.generator = PerfectGenerator(setting.zoo)
    del setting.teachers["say g"]
    document = answer_examples(setting, n_inputs=1)
    assert document["methods"] == ["base", "generated"]
    assert document["tasks"][0]["examples"][0]["answers"].keys() == {"base", "generated"}


def test_no_more_tasks_and_inputs_than_there_are(setting):
    document = answer_examples(setting, n_tasks=99, n_inputs=99)
    assert len(document["tasks"]) == 2 + 3 + 2 + 1
    assert {len(task["examples"]) for task in document["tasks"]} == {3}


def test_faults_are_named(setting, tmp_path):
    with pytest.raises(InputError, match="example answers for 0 tasks with 3 inputs each; give 1 or more"):
        answer_examples(setting, n_tasks=0)
    setting.generator = None
    with pytest.raises(InputError, match="example answers need a generator; give --run"):
        answer_examples(setting)
    write_json(tmp_path / "answers.json", {"tasks": [{"examples": [3]}]})
    with pytest.raises(InputError, match="not example answers"):
        read_answers(tmp_path / "answers.json")


def test_evaluate_writes_them_beside_its_document(world, tmp_path):
    PerfectGenerator(TeacherZoo.load(world)).save_pretrained(tmp_path / "generator")
    flags = ["--checkpoint", str(tmp_path / "generator"), "--data_dir", str(world), "--cache_dir", str(tmp_path)]
    assert main(["evaluate", *flags, "--methods", "base", "--example_answers", "3", "--output", str(tmp_path)]) == 0
    assert len(read_json(tmp_path / "example_answers.json")["tasks"]) == 3
