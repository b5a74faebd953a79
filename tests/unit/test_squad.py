"""SQuAD 2.0's files, and what becomes of broken rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from shared_data import SHARED_DATA, needs_shared_data

from llgbm.errors import InputError
from llgbm.study.squad import check_questions, read_squad

CONTEXT = "Ada Lovelace wrote the first program in 1843."
GOOD = {"id": "q1", "question": "Who wrote it?", "answers": [{"text": "Ada Lovelace", "answer_start": 0}]}


def _file(folder: Path, *entries: Any, context: Any = CONTEXT) -> Path:
    file = folder / "squad.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [{"title": "Ada", "paragraphs": [{"context": context, "qas": list(entries)}]}]}))
    return file


def test_a_file_is_read(tmp_path: Path) -> None:
    read = read_squad(_file(tmp_path, GOOD, {"id": "q2", "question": "Which year?", "answers": [], "is_impossible": True}))
    first, second = read.good
    assert (first.article, first.context, first.answers, first.texts) == ("Ada", CONTEXT, (("Ada Lovelace", 0),), ("Ada Lovelace",))
    assert second.answers == ()
    assert read.faults == ()


def test_the_rows_of_datasets_are_the_same(tmp_path: Path) -> None:
    row = {"id": "q1", "title": "Ada", "context": CONTEXT, "question": "Who wrote it?"}
    rows = [{**row, "answers": {"text": ["Ada Lovelace"], "answer_start": [0]}}]
    assert check_questions(rows, "hub").good == read_squad(_file(tmp_path, GOOD)).good


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": [{"text": "Ada Lovelace", "answer_start": 1}]}, "'Ada Lovelace' is not at character 1 of its context"),
        ({"answers": [{"text": "Babbage", "answer_start": 0}]}, "'Babbage' is not at character 0 of its context"),
        ({"answers": [{"text": "Ada", "answer_start": -45}]}, "is not at character -45"),
        ({"answers": [{"text": "Ada"}]}, "an answer is 'Ada' at None"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "an answer is '' at 0"),
        ({"answers": "Ada"}, "its answers are 'Ada'"),
        ({"answers": None}, "it has no answers"),
        ({"question": None, "id": None}, "it has no id and no question"),
        ({"question": 7}, "its question is 7, expected text"),
        ({"question": " "}, "its question is empty"),
        ({"id": "q1"}, "the id is that of an earlier question: q1"),
    ],
)
def test_a_broken_question_is_named_and_left_out(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    read = read_squad(_file(tmp_path, GOOD, {**GOOD, "id": "q2", **change}))
    assert [question.id for question in read.good] == ["q1"]
    assert len(read.faults) == 1
    assert "squad.json: question 2 is left out: " in read.faults[0]
    assert message in read.faults[0]


@pytest.mark.parametrize("context", [None, 3, ""])
def test_a_context_that_is_none_is_named(tmp_path: Path, context: Any) -> None:
    with pytest.raises(InputError, match=r"no question can be used; the first fault: .*context"):
        read_squad(_file(tmp_path, GOOD, context=context))


@pytest.mark.parametrize("data", [[], {"data": {}}, {"questions": []}])
def test_another_form_is_refused(tmp_path: Path, data: Any) -> None:
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="has no list 'data' of articles"):
        read_squad(tmp_path / "x.json")


@pytest.mark.parametrize("data", [[], [3], [{"title": "a"}], [{"paragraphs": [None]}], [{"paragraphs": [{"context": "c", "qas": [5]}]}]])
def test_nothing_to_use_is_refused(tmp_path: Path, data: Any) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"data": data}))
    with pytest.raises(InputError, match="no question can be used; the first fault"):
        read_squad(tmp_path / "x.json")


@needs_shared_data
def test_the_real_file_is_whole() -> None:
    read = read_squad(SHARED_DATA / "squad_v2_cs224n" / "test-v2.0.json")
    assert read.faults == ()
    assert len(read.good) > 5_000
    assert sum(not question.answers for question in read.good) > 2_500
    assert all(question.context[start : start + len(text)] == text for question in read.good for text, start in question.answers)
