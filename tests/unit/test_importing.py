"""Folders of {input, output} become suites; faulty rows are named."""

import json

import pytest
from shared_data import SHARED_DATA, needs_shared_data

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.zoo.importing import import_function_vectors
from llgbm.zoo.suites import load_suite

PAIRS = [{"input": f"word{i}", "output": f"word{i}s"} for i in range(10)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "singular-plural.json").write_text(json.dumps([*PAIRS, PAIRS[0]]))
    return tmp_path


def test_a_file_is_a_task(folder) -> None:
    task = import_function_vectors(folder)["singular-plural"]
    assert (task.domain, task.split, task.description) == ("words", "seen", "Singular to plural.")
    assert (len(task.train), len(task.test)) == (8, 2)
    assert {(e.input, e.output) for e in (*task.train, *task.test)} == {(p["input"], p["output"]) for p in PAIRS}


def test_the_command_saves_what_loads_again(folder, tmp_path) -> None:
    saved = tmp_path / "suite"
    assert main(["zoo", "tasks", "--import_function_vectors", str(folder / "words"), "--save", str(saved)]) == 0
    assert load_suite(saved).tasks == import_function_vectors(folder / "words").tasks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "expected a list of {input, output}"),
        ('[{"input": "a", "output": "b"}]', "1 different inputs; a task needs at least 2"),
        ('[{"input": "a", "output": "b"}, {"input": "c"}]', r"words/bad.json, row 2: output"),
        ('[{"input": 3, "output": "b"}]', r"words/bad.json, row 1: input"),
        ('[{"input": "a", "output": ""}]', r"words/bad.json, row 1: output"),
        ("[7]", r"words/bad.json, row 1"),
    ],
)
def test_faults_are_named(folder, content, message) -> None:
    (folder / "words" / "bad.json").write_text(content)
    with pytest.raises(InputError, match=message):
        import_function_vectors(folder)


def test_empty_folders_and_twins_are_refused(folder, tmp_path) -> None:
    with pytest.raises(InputError, match="no JSON files to import"):
        import_function_vectors(tmp_path / "nowhere")
    (folder / "more").mkdir()
    (folder / "more" / "singular-plural.json").write_text(json.dumps(PAIRS))
    with pytest.raises(InputError, match="task 'singular-plural' stands in two folders"):
        import_function_vectors(folder)


@needs_shared_data
def test_the_published_folder() -> None:
    suite = import_function_vectors(SHARED_DATA / "function_vectors" / "extractive")
    assert len(suite) == 27
    assert suite["choose_first_of_3"].description == "Choose first of 3."
