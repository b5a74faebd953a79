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
    document = answer_examples(setting, n_tasks=5, n_inputs=2)
    assert [task["split"] for task in document["tasks"]] == ["unseen_combination"] * 2 + ["unseen_wording"] * 2 + ["mixture"]
    assert document["tasks"][0]["task"] == setting.questions("unseen_combination")[0].task.name
    for task in document["tasks"]:
        assert len(task["examples"]) == 2
        for row in task["examples"]:
            assert row["answers"]["generated"] == row["answers"]["teacher"] == row["expected"] == task["task"][-1]
            assert row["answers"]["base"] != row["expected"]
    assert document["tasks"][2]["description"].endswith("is all I want to hear.")
    write_json(tmp_path / "answers.json", document)
    assert read_answers(tmp_path / "answers.json") == document


def test_no_more_tasks_and_inputs_than_there_are(setting):
    document = answer_examples(setting, n_tasks=99, n_inputs=99)
    assert len(document["tasks"]) == 2 + 3 + 1
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
