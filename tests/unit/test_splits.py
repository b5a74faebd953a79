"""Suites name splits and further sets of test examples as they like: evaluation, its tests, kept scores and the report cope."""

from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_world import PerfectGenerator, build_evaluation_world

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.evaluation.setting import EvaluationConfig, Setting, load_setting
from llgbm.evaluation.task_eval import run_evaluation
from llgbm.files import write_json
from llgbm.report.html import write_report
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.reword import reword_zoo
from llgbm.zoo.suite import Example, Task, TaskSuite
from llgbm.zoo.suites import load_suite

OF_THEIR_OWN = {"say e": "hard", "say f": "hard", "say g": "Harder still"}
SPLITS = ["seen", "unseen_wording", "Harder still", "hard"]


@pytest.fixture(scope="module")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with splits and test examples of its own: on the further set no teacher is right."""
    folder = tmp_path_factory.mktemp("world")
    built = build_evaluation_world(folder)
    suite = TeacherZoo.load(built).suite
    wrong = {"wrong": (Example("kk", "z"), Example("ll", "z"))}
    tasks = {
        task.name: replace(task, split=OF_THEIR_OWN.get(task.name, "seen"), further_tests={} if task.name == "say f" else wrong)
        for task in suite
    }
    replace(suite, tasks=tasks).save(folder / "theirs")
    assert load_suite(folder / "theirs").tasks == tasks
    return reword_zoo(built, str(folder / "theirs"), folder / "reworded").folder


def setting_of(zoo_folder: Path, cache: Path | None = None, **choices) -> Setting:
    setting = load_setting(None, zoo_folder, EvaluationConfig(**choices), cache)
    setting.generator = PerfectGenerator(setting.zoo)
    return setting


def test_everything_is_reported_under_its_own_name(zoo_folder: Path, tmp_path: Path) -> None:
    methods = ("base", "teacher", "generated", "few_shot")
    for _ in range(2):  # computed, then kept
        document = run_evaluation(setting_of(zoo_folder, tmp_path / "cache", methods=methods)).to_json()
        assert list(document["splits"]) == [*SPLITS, "seen+wrong", "Harder still+wrong", "hard+wrong"]
        for split, scored in document["splits"].items():
            assert scored["teacher"]["exact_match"] == scored["generated"]["exact_match"] == (0 if "wrong" in split else 1)
        assert [document["splits"][split]["base"]["n_tasks"] for split in ("hard", "hard+wrong", "seen+wrong")] == [2, 1, 3]
    assert {row["split"] for row in document["comparisons"]} == {*document["splits"]}
    write_json(tmp_path / "run" / "metadata.json", {"state": "COMPLETED"})
    write_json(tmp_path / "run" / "eval_main.json", document)
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert "Harder still" in page
    assert "hard+wrong" in page


def test_few_shot_demonstrates_train_examples_before_a_further_set(zoo_folder: Path) -> None:
    setting = setting_of(zoo_folder)
    (question, *_) = setting.questions("hard+wrong")
    assert [e.input for e in setting.examples(question.task)] == ["kk", "ll"]
    assert {e.output for shown in setting.demonstrations(question.task) for e in shown} == {"e"}


def test_a_split_that_is_not_there_is_named(zoo_folder: Path) -> None:
    for asked, message in (
        ("harder", "unknown split 'harder'; choose from seen, unseen_wording, Harder still, hard"),
        ("hard+wring", r"did you mean hard\+wrong\? after the plus sign stands one of .*, wrong"),
        ("mixture", "has no tasks for split mixture"),
    ):
        with pytest.raises(InputError, match=message):
            setting_of(zoo_folder, splits=(asked,)).splits()


def test_tasks_of_one_split_are_selected_by_name(zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = str(zoo_folder.parent / "theirs")
    assert (
        main(["zoo", "tasks", "--suite", theirs, "--split", "hard", "--save", str(tmp_path / "some"), "--figure", str(tmp_path / "x.png")])
        == 0
    )
    assert [task.name for task in load_suite(tmp_path / "some")] == ["say e", "say f"]
    capsys.readouterr()
    assert main(["zoo", "tasks", "--suite", theirs, "--split", "herd"]) == 2
    assert "--split: suite letters has no tasks of split 'herd'; it has seen, Harder still, hard" in capsys.readouterr().err


def test_a_further_set_without_a_name_is_refused(zoo_folder: Path, tmp_path: Path) -> None:
    suite: TaskSuite = load_suite(zoo_folder.parent / "theirs")
    suite.save(tmp_path)
    (tmp_path / "test-wrong.jsonl").rename(tmp_path / "test-a+b.jsonl")
    with pytest.raises(InputError, match=r"test-a\+b.jsonl: names no set of test examples; write test-<name>.jsonl"):
        load_suite(tmp_path)


def test_a_choice_is_among_all_answers_whatever_set_is_asked() -> None:
    sets = {"a": (Example("3", "c"),), "b": (Example("4", "d"),)}
    task = Task("one", "d", "seen", "Say it.", train=(Example("1", "a"),), test=(Example("2", "b"),), further_tests=sets)
    assert task.options == ("a", "b", "c", "d")
    assert task.tested_on("a").test == sets["a"]
    assert {*task.tested_on("a").options} == {*task.tested_on("b").options} == {*task.options}


def test_a_suite_without_further_sets_has_the_hash_it_always_had(zoo_folder: Path) -> None:
    suite = load_suite(zoo_folder.parent / "suite")
    task = suite["say a"]
    assert "further_tests" not in task.content()
    assert task.content() != replace(task, further_tests={"x": task.test}).content()
    assert load_suite("micro").content_hash.startswith("acaa318c4e8ec80b")
