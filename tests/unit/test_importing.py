"""Public tasks in the formats they came in become suites; faulty rows are named."""

import json
from pathlib import Path

import pytest
from shared_data import SHARED_DATA, needs_shared_data

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.zoo.importing import describe, hold_out, import_suite
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


def test_the_folder_one_stands_in_has_its_name(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder / "words")
    here = import_suite("function_vectors", ".")
    assert (here.name, here["singular-plural"].domain) == ("words", "words")


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


TABLE = """
t0: {family: f, texts: [Say zero., Zero., Nought.]}
t1: {family: f, texts: [Say one.]}
t2: {texts: [Say two.]}
"""


@pytest.fixture
def numbered(tmp_path):
    """Six tasks t0 to t5, of which a table describes three."""
    (tmp_path / "words").mkdir()
    for i in range(6):
        (tmp_path / "words" / f"t{i}.json").write_text(json.dumps(PAIRS))
    (tmp_path / "words" / "t5.json").write_text(json.dumps([{**pair, "output": "same"} for pair in PAIRS]))
    (tmp_path / "table.yaml").write_text(TABLE)
    return tmp_path


def test_a_table_describes_tasks(numbered) -> None:
    suite = describe(import_suite("function_vectors", numbered / "words"), numbered / "table.yaml")
    assert (suite["t0"].description, suite["t0"].paraphrases) == ("Say zero.", ("Zero.", "Nought."))
    assert [suite[f"t{i}"].attributes for i in range(4)] == [{"family": "f"}, {"family": "f"}, {"family": "t2"}, {}]
    assert suite["t3"].description == "T3."


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("t9: {texts: [a]}", "table.yaml: 't9' is no task of suite words; it has 6 tasks, e.g. t0"),
        ("t1: {texts: []}", "table.yaml: t1: no text; give one or more"),
        ("t1: {texts: [' ']}", "table.yaml: expected texts, found ' '"),
        ("t1: {text: [a]}", "table.yaml: t1: texts is missing"),
        ("t1: {texts: [a], metric: rouge}", "table.yaml: t1: metric: 'rouge' is no metric; choose one of exact_match"),
        ("t5: {texts: [a], metric: choice}", "table.yaml: task 't5' is a choice among 1 answers"),
        ("- a", "expected a mapping"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(numbered, table, message) -> None:
    (numbered / "table.yaml").write_text(table)
    with pytest.raises(InputError, match=message):
        describe(import_suite("function_vectors", numbered / "words"), numbered / "table.yaml")


def test_families_are_held_out_whole(numbered) -> None:
    suite = describe(import_suite("function_vectors", numbered / "words"), numbered / "table.yaml")
    draws = [frozenset(t.name for t in hold_out(suite, 3, draw) if t.split == "unseen_task") for draw in range(12)]
    assert all(len(held) == 3 for held in draws)
    assert all(("t0" in held) == ("t1" in held) for held in draws)
    assert {"t0" in held for held in draws} == {True, False}
    assert len(set(draws)) > 3
    assert draws[0] == {t.name for t in hold_out(suite, 3, 0) if t.split == "unseen_task"}


@pytest.mark.parametrize("count", [0, 6])
def test_some_tasks_are_held_out_and_some_are_not(numbered, count) -> None:
    suite = import_suite("function_vectors", numbered / "words")
    with pytest.raises(InputError, match=f"suite words has 6 seen tasks, {count} are to be held out; give 1 to 5"):
        hold_out(suite, count)


def test_the_command_describes_and_holds_out(numbered) -> None:
    flags = ["--import", "function_vectors", str(numbered / "words"), "--descriptions", str(numbered / "table.yaml"), "--hold_out", "2"]
    suites = []
    for draw in ("3", "4"):
        assert main(["zoo", "tasks", *flags, "--draw", draw, "--save", str(numbered / draw)]) == 0
        suites.append(load_suite(numbered / draw))
    described = describe(import_suite("function_vectors", numbered / "words"), numbered / "table.yaml")
    assert [suite.tasks for suite in suites] == [hold_out(described, 2, draw).tasks for draw in (3, 4)]


def test_a_draw_of_nothing_is_refused(capsys) -> None:
    assert main(["zoo", "tasks", "--draw", "1"]) == 2
    assert "--draw says which tasks are held out; give --hold_out N too" in capsys.readouterr().err


@needs_shared_data
def test_the_published_folder_is_described_by_our_table() -> None:
    table = Path(__file__).parents[2] / "examples" / "function_vectors.yaml"
    suite = describe(import_suite("function_vectors", SHARED_DATA / "function_vectors"), table)
    assert all(len(task.paraphrases) == 3 and task.attributes for task in suite)
    assert len({text for task in suite for text in (task.description, *task.paraphrases)}) == 4 * 56
    held = [task for task in hold_out(suite, 12) if task.split == "unseen_task"]
    assert len(held) == 12
    seen = {task.attributes["family"] for task in hold_out(suite, 12) if task.split == "seen"}
    assert not seen & {task.attributes["family"] for task in held}
