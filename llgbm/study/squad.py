"""Questions in SQuAD 2.0's form: from its JSON files, or as the rows `datasets` has of it; what is broken is named and left out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llgbm.errors import InputError
from llgbm.files import read_json

COLUMNS = ("id", "title", "context", "question", "answers")
"""Of a row; `answers` is {"text": [...], "answer_start": [...]}."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """One question on one context."""

    id: str
    article: str
    """Title of the article; questions of one article are not independent."""
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]
    """Each text with the character of the context where it begins; none where the context has no answer."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The reference answers."""
        return tuple(text for text, _ in self.answers)


@dataclass(frozen=True)
class Questions:
    """What was read."""

    good: tuple[Question, ...]
    faults: tuple[str, ...] = ()
    """One sentence for every question left out: which, and what is wrong."""


def read_squad(file: str | Path) -> Questions:
    """Read a file in SQuAD 2.0's JSON.

    Raises:
        InputError: It is no JSON, or not in this form as a whole.
    """
    data = read_json(file)
    articles = data.get("data") if isinstance(data, dict) else None
    if not isinstance(articles, list):
        raise InputError(f"{file}: has no list 'data' of articles; give a file in SQuAD 2.0's JSON")
    return check_questions(_rows(articles), str(file))


def check_questions(rows: Iterable[Row], source: str) -> Questions:
    """Questions of rows, each checked.

    Args:
        rows: With COLUMNS; further ones do not matter.
        source: Where they are from, for messages.

    Raises:
        InputError: No row is whole.
    """
    good: dict[str, Question] = {}
    faults: list[str] = []
    for number, row in enumerate(rows, 1):
        fault = _fault(row) or (f"the id is that of an earlier question: {row['id']}" if row["id"] in good else "")
        if fault:
            faults.append(f"{source}: question {number} is left out: {fault}")
        else:
            answers = dict.fromkeys(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
            good[row["id"]] = Question(row["id"], row["title"], row["context"], row["question"], tuple(answers))
    if not good:
        raise InputError(f"{source}: no question can be used; the first fault: {faults[0] if faults else 'there is none'}")
    return Questions(tuple(good.values()), tuple(faults))


def _rows(articles: list[Any]) -> Iterator[Row]:
    """The rows of the nested form; where a level is not what it should be, one row that holds what there is."""
    for article in articles:
        for paragraph in _listed(article, "paragraphs"):
            for entry in _listed(paragraph, "qas"):
                known = {"title": _of(article, "title"), "context": _of(paragraph, "context")}
                answers = _of(entry, "answers")
                columns = answers
                if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
                    columns = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
                given = entry if isinstance(entry, dict) else {}
                yield {**{key: value for key, value in known.items() if value is not None}, **given, "answers": columns}


def _listed(holder: Any, key: str) -> list[Any]:
    """What a level holds; None stands for what is missing, so that it is named."""
    inside = _of(holder, key)
    return inside if isinstance(inside, list) else [None]


def _of(holder: Any, key: str) -> Any:
    return holder.get(key) if isinstance(holder, dict) else None


def _fault(row: Row) -> str:
    """What is wrong with a row, or nothing."""
    missing = [column for column in COLUMNS if row.get(column) is None]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    words = [column for column in COLUMNS[:-1] if not isinstance(row[column], str)]
    if words:
        return f"its {words[0]} is {row[words[0]]!r:.80}, expected text"
    empty = [column for column in ("id", "context", "question") if not row[column].strip()]
    if empty:
        return f"its {empty[0]} is empty"
    return _answers_fault(row["answers"], row["context"])


def _answers_fault(answers: Any, context: str) -> str:
    texts, starts = _of(answers, "text"), _of(answers, "answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return f"its answers are {answers!r:.80}, expected as many texts as starts"
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text or not isinstance(start, int) or isinstance(start, bool):
            return f"an answer is {text!r:.80} at {start!r:.20}, expected a text and a character's number"
        if start < 0 or context[start : start + len(text)] != text:
            return f"the answer {text!r:.80} is not at character {start} of its context"
    return ""
