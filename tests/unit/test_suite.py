"""Suites survive the trip to disk, and bad ones are refused in one sentence."""

import dataclasses
import json
from pathlib import Path

import pytest

from llgbm.errors import InputError
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suites import load_suite


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    suite = micro_suite(n_train=4, n_test=2)
    suite.select(list(suite.tasks)[:3]).save(tmp_path / "suite")
    return tmp_path / "suite"


def test_round_trip_keeps_content(folder: Path) -> None:
    suite = micro_suite(n_train=4, n_test=2)
    part = suite.select(list(suite.tasks)[:3])
    again = load_suite(folder)
    assert again == part
    assert again.content_hash == part.content_hash


def test_hash_changes_with_one_example(folder: Path) -> None:
    before = load_suite(folder).content_hash
    path = folder / "test.jsonl"
    path.write_text(path.read_text().replace('"output": "', '"output": "x', 1))
    assert load_suite(folder).content_hash != before


def test_select_by_split_and_unknown_name() -> None:
    suite = micro_suite(n_train=4, n_test=2)
    assert {t.split for t in suite.select(split="mixture")} == {"mixture"}
    with pytest.raises(InputError, match="has no task 'nope'"):
        suite["nope"]


def test_handwritten_suite_needs_no_header_and_defaults_to_seen(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"task": "antonym", "domain": "words", "description": "Give the opposite."}\n')
    (tmp_path / "train.jsonl").write_text('{"task": "antonym", "input": "hot", "output": "cold"}\n\n')
    (tmp_path / "test.jsonl").write_text('{"task": "antonym", "input": "wet", "output": "dry"}\n')
    suite = load_suite(tmp_path)
    assert suite["antonym"].split == "seen"
    assert suite.framed("hot") == "### Instruction:\nhot\n\n### Response:\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tasks.jsonl", '{"task": "a", "domain": \n', r"tasks.jsonl:1: not valid JSON"),
        ("tasks.jsonl", '{"task": "a", "domain": "d"}\n', r"tasks.jsonl:1: description is missing; give a string"),
        ("tasks.jsonl", '["a"]\n', r"tasks.jsonl:1: the whole must be a mapping, found \['a'\]"),
        ("tasks.jsonl", "", r"tasks.jsonl: holds no tasks"),
        (
            "tasks.jsonl",
            '{"task": "a", "domain": "d", "description": "x", "split": "unseen_wording"}\n',
            r"tasks.jsonl:1: split: 'unseen_wording' is a way of asking, not a split of tasks; seen trains, any other name tests",
        ),
        (
            "tasks.jsonl",
            '{"task": "a", "domain": "d", "description": "x", "split": "hard+er"}\n',
            r"tasks.jsonl:1: split: 'hard\+er' is a way of asking",
        ),
        (
            "train.jsonl",
            '{"task": "zzz", "input": "a", "output": "b"}\n',
            r"train.jsonl:1: example for unknown task 'zzz'; add it to tasks.jsonl",
        ),
        ("train.jsonl", '{"task": "zzz", "input": 3, "output": "b"}\n', r"train.jsonl:1: input must be a string, found 3"),
        ("train.jsonl", '{"task": "a", "input": "x", "output": ""}\n', r"train.jsonl:1: output must be at least 1 long, found ''"),
        ("suite.json", "{", r"suite.json: not valid JSON"),
        ("suite.json", '{"frame": "no slot"}', r"suite.json: frame: 'no slot' has no place for \{input\}"),
        ("suite.json", '{"frame": 3}', r"suite.json: frame must be a string, found 3"),
        ("suite.json", "[]", r"suite.json: the whole must be a mapping, found \[\]"),
        ("tasks.jsonl", "[" * 9999 + "\n", r"tasks.jsonl:1: JSON that cannot be read \(maximum recursion"),
        ("tasks.jsonl", "1" * 9999 + "\n", r"tasks.jsonl:1: JSON that cannot be read \(Exceeds the limit"),
        *(
            ("tasks.jsonl", json.dumps({"task": "a", "domain": "d", "description": "x"} | changed) + "\n", f"tasks.jsonl:1: {message}")
            for changed, message in (
                ({"description": None}, "description must be a string, found None"),
                ({"description": 3}, "description must be a string, found 3"),
                ({"description": "\ud800"}, "description: holds half of a surrogate pair at character 1, which is no text"),
                ({"prompts": "x"}, "prompts must be a list of a string, found 'x'"),
                ({"prompts": ["x", None]}, r"prompts\[1\] must be a string, found None"),
                ({"parts": ["b"]}, "parts: 'b' is no task of this suite"),
                ({"attributes": {"a": 1}}, "attributes.a must be a string, found 1"),
                ({"task": "../../x"}, "task: the name '../../x' holds the separator '/'"),
                ({"domain": "/tmp/x"}, "domain: the name '/tmp/x' holds the separator '/'"),
            )
        ),
    ],
)
def test_faults_name_file_and_line(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        load_suite(folder)


def test_task_without_test_examples_is_refused(folder: Path) -> None:
    path = folder / "test.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "increment-digits-plain" not in line))
    with pytest.raises(InputError, match=r"task 'increment-digits-plain' has no test examples; add them to test.jsonl"):
        load_suite(folder)


def test_duplicate_task_missing_file_and_missing_folder(folder: Path, tmp_path: Path) -> None:
    path = folder / "tasks.jsonl"
    path.write_text(path.read_text() + path.read_text())
    with pytest.raises(InputError, match="is defined twice"):
        load_suite(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"tasks.jsonl: no such file"):
        load_suite(folder)
    with pytest.raises(InputError, match="no such folder"):
        load_suite(tmp_path / "absent")


@pytest.mark.parametrize("twin", [{"task": "A"}, {"task": "b", "domain": "D"}, {"task": "b", "domain": "e\u0301"}])
def test_names_that_would_be_one_folder_are_refused(folder: Path, twin: dict) -> None:
    rows = [{"task": "a", "domain": "d"}, {"task": "c", "domain": "\u00e9"}, {"domain": "d"} | twin]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row | {"description": "x"}) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"tasks.jsonl:3: (task|domain) '.*' and '.*' differ only by case or Unicode spelling; rename one"):
        load_suite(folder)


def test_suite_with_no_tasks_is_refused(tmp_path: Path) -> None:
    for name in ("tasks", "train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no tasks"):
        load_suite(tmp_path)


def test_spaced_tasks_cover_the_suite_in_order() -> None:
    suite = micro_suite(n_train=2, n_test=1).select(split="seen")
    some = suite.spaced(20)
    assert len(some) == 20
    assert list(some.tasks) == [name for name in suite.tasks if name in some.tasks]
    assert {task.domain for task in some} == {task.domain for task in suite}
    assert suite.spaced(len(suite)).tasks == suite.tasks
    with pytest.raises(InputError, match="tasks to choose from, 0 were asked for; give 1 to"):
        suite.spaced(0)


def test_chat_suites_come_back_and_count_in_the_hash(tmp_path: Path) -> None:
    plain = micro_suite(n_train=2, n_test=2).spaced(2)
    chat = dataclasses.replace(plain, frame="chat", system="Be brief.")
    chat.save(tmp_path)
    again = load_suite(tmp_path)
    assert (again.frame, again.system, again.select().system) == ("chat", "Be brief.", "Be brief.")
    hashes = {suite.content_hash for suite in (plain, chat, dataclasses.replace(chat, system="Be long."))}
    assert len(hashes) == 3
    assert again.content_hash in hashes
    assert chat.framed("hot") == "hot"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('{"frame": "no place"}', "write a frame that contains {input}, or chat"),
        ('{"system": "Be brief."}', "system: only the frame chat has a place for it"),
    ],
)
def test_faulty_headers_are_named(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "suite.json").write_text(header)
    with pytest.raises(InputError, match=message):
        load_suite(tmp_path)
