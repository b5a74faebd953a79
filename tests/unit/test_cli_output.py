"""Tables: data is shown as it is, titles stay whole, columns fit."""

import pytest

from llgbm.cli.output import PIPE_WIDTH, live_table, print_table


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
