"""Tables: data is shown as it is, titles stay whole, columns fit."""

import io
import re

import pytest
from rich.cells import cell_len

from llgbm.cli.output import PIPE_WIDTH, live_table, print_table

HOSTILE = ("[link=http://x]y[/link]", ":smile:", "a [/] b", "\\[b]", "{x}", "[0m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["[kdfuy]", "[/b]", "[bold]x[/bold]", "a\\[b]", ":smile:"])
def test_answers_are_shown_as_they_are(answer, capsys):
    print_table([{"input[1]": answer, "n": 1.5}], title=f"asked for {answer}")
    out = capsys.readouterr().out
    assert out.count(answer) == 2
    assert "input[1]" in out


def test_a_long_title_is_one_line_and_long_cells_are_folded(capsys, monkeypatch):
    title = "word " * 60
    print_table([{"text": "x" * 400}], title=title)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == title.strip()
    assert all(len(line) <= PIPE_WIDTH for line in lines[1:])
    assert sum(line.count("x") for line in lines[1:]) - sum("text" in line for line in lines[1:]) == 400


def test_a_live_table_ends_with_what_the_rows_hold(capsys):
    rows = [{"text": "a", "base": ""}]
    with live_table(rows, "base micro") as refresh:
        rows[0]["base"] = "[b]"
        refresh()
    out = capsys.readouterr().out
    assert "[b]" in out
    assert "base micro" in out


@pytest.mark.parametrize("text", HOSTILE)
def test_what_looks_like_markup_stands_in_cells_heads_and_titles(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{text: text, "n": 1}], title=f"title {text}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"title {text}"
    assert sum(text in line for line in lines[1:]) == 2


def test_control_characters_are_escaped_and_rows_stay_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"answer": "a\nb\x1b[31m\x07\ud800", "n": None}])
    out = capsys.readouterr().out
    assert r"a\nb\x1b[31m\x07\ud800" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("cell", ["word " * 40, "x" * 300, "語" * 100], ids=["words", "one word", "wide"])
def test_a_terminal_of_80_columns_is_not_exceeded_and_nothing_is_lost(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    print_table([{"task": "increment-digits-plain", "answer": cell, "share": 0.5, "n": 20}])
    out = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert all(cell_len(line) <= 80 for line in out.splitlines())
    assert out.count(cell[0]) >= cell.count(cell[0])
    assert "…" not in out


def test_columns_that_do_not_fit_come_below_with_the_first_one_again(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    row = {"method": "generated", **{f"split{i}": "0.993 ± 0.002 (100%)" for i in range(5)}}
    monkeypatch.setattr("llgbm.cli.output.PIPE_WIDTH", 80)
    print_table([row], title="scores", in_parts=True)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.count("0.993 ± 0.002 (100%)") for line in lines) == 5
    assert [line.split()[0] for line in lines if "method" in line] == ["method"] * 2
    print_table([{"a": "x" * 100, "b": "y" * 100}], in_parts=True)  # one column alone is folded
    assert "y" in capsys.readouterr().out


def test_a_title_of_two_lines_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"a": 1}], title="asked for:\n  [b] \x1b[31m")
    assert capsys.readouterr().out.splitlines()[:2] == ["asked for:", r"  [b] \x1b[31m"]
