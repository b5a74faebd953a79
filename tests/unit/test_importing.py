"""Public tasks in the formats they came in become suites; faulty rows are named."""

import json
from pathlib import Path

import pytest
from shared_data import SHARED_DATA, needs_shared_data

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.zoo.importing import import_suite
from llgbm.zoo.suites import load_suite

PAIRS = [{"input": f"word{i}", "output": f"word{i}s"} for i in range(10)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "singular-plural.json").write_text(json.dumps([*PAIRS, PAIRS[0]]))
    return tmp_path


def test_a_file_is_a_task(folder) -> None:
    task = import_suite("function_vectors", folder)["singular-plural"]
    assert (task.domain, task.split, task.description) == ("words", "seen", "Singular to plural.")
    assert (len(task.train), len(task.test)) == (8, 2)
    assert {(e.input, e.output) for e in (*task.train, *task.test)} == {(p["input"], p["output"]) for p in PAIRS}


def test_the_command_saves_what_loads_again(folder, tmp_path) -> None:
    saved = tmp_path / "suite"
    assert main(["zoo", "tasks", "--import", "function_vectors", str(folder / "words"), "--save", str(saved)]) == 0
    assert load_suite(saved).tasks == import_suite("function_vectors", folder / "words").tasks


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
        import_suite("function_vectors", folder)


def test_empty_folders_and_twins_are_refused(folder, tmp_path) -> None:
    with pytest.raises(InputError, match="no JSON files to import"):
        import_suite("function_vectors", tmp_path / "nowhere")
    (folder / "more").mkdir()
    (folder / "more" / "singular-plural.json").write_text(json.dumps(PAIRS))
    with pytest.raises(InputError, match="task 'singular-plural' stands in two folders"):
        import_suite("function_vectors", folder)


@needs_shared_data
def test_the_published_folder() -> None:
    suite = import_suite("function_vectors", SHARED_DATA / "function_vectors" / "extractive")
    assert len(suite) == 27
    assert suite["choose_first_of_3"].description == "Choose first of 3."


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_instruction_induction_says_what_trains_and_what_tests(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbered = {str(i): pair for i, pair in enumerate(PAIRS, 1)}
    put(tmp_path / "raw" / "induce" / "singular_to_plural.json", {"metadata": {}, "examples": numbered})
    put(
        tmp_path / "raw" / "execute" / "singular_to_plural.json",
        {"examples": {"1": PAIRS[0], "2": {"input": "fox", "output": ["foxes", "vixens"]}}},
    )
    put(tmp_path / "raw" / "induce" / "common_concept.json", {"examples": {"1": {"concept": "round", "items": ["ball"]}}})
    put(tmp_path / "raw" / "execute" / "common_concept.json", {"examples": {"1": {"concept": "round", "items": ["ball"]}}})
    put(tmp_path / "annotations" / "singular_to_plural.json", {"annotations": ["Write the plural.", "Make it many."]})
    suite = import_suite("instruction_induction", tmp_path)
    assert "common_concept.json: left out, its examples are not of input and output" in caplog.text
    (task,) = suite
    assert [(e.input, e.output) for e in task.test] == [("word0", "word0s"), ("fox", "foxes")]
    assert [e.input for e in task.train] == [f"word{i}" for i in range(1, 10)]
    assert (task.description, task.paraphrases) == ("Write the plural.", ("Make it many.",))


def test_natural_instructions_bring_their_definitions(tmp_path: Path) -> None:
    instances = [{"id": f"x-{i}", "input": pair["input"], "output": [pair["output"], "other"]} for i, pair in enumerate(PAIRS)]
    content = {"Definition": ["Write the plural."], "Categories": ["Text Generation -> Words"], "Instances": instances}
    put(tmp_path / "task001_plural.json", content)
    (task,) = import_suite("natural_instructions", tmp_path)
    assert (task.name, task.domain, task.description) == ("task001_plural", "text_generation", "Write the plural.")
    assert {(e.input, e.output) for e in (*task.train, *task.test)} == {(p["input"], p["output"]) for p in PAIRS}
    assert (len(task.train), len(task.test)) == (8, 2)
    for key, wrong, message in (
        ("Instances", [], "expected a mapping with Instances, a list that is not empty"),
        ("Definition", [" "], "expected texts, found ' '"),
        ("Instances", [{"input": "a", "output": []}], "task001_plural.json, row 1: output"),
    ):
        put(tmp_path / "task001_plural.json", content | {key: wrong})
        with pytest.raises(InputError, match=message):
            import_suite("natural_instructions", tmp_path)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(InputError, match="unknown format 'flan' of tasks; choose one of function_vectors, instruction_induction"):
        import_suite("flan", ".")
