"""Rate and time left are those of the last while, on a terminal and in plain lines."""

import io
import re

import pytest

from llgbm.progress import ProgressBar, Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(updates: list[tuple[float, int]], total: int = 1000, stream: io.StringIO | None = None) -> list[str]:
    """What is printed when `done` units are finished at these seconds."""
    stream, now = stream or io.StringIO(), [0.0]
    with ProgressBar("work", "steps", stream, clock=lambda: now[0]) as progress:
        for now[0], done in updates:
            progress(done, total, loss=0.5)
    return stream.getvalue().splitlines()


def test_pieces_of_different_sizes_are_counted_in_any_order() -> None:
    seen, workers = [], {"busy": "1/2"}
    tally = Tally(10.0, lambda done, total, **figures: seen.append((done, total, figures)), lambda: workers)
    tally.add(4.0)
    tally.tick(1.6, loss=0.5)
    tally.add(6.0)
    assert seen == [(4, 10, workers), (6, 10, {**workers, "loss": 0.5}), (10, 10, workers)]
    Tally(1.0).add(1.0)


def test_the_time_left_follows_the_rate_of_the_last_while() -> None:
    slow_then_fast = [(60.0 * k, k) for k in range(1, 11)] + [(600.0 + k, 10 + 10 * k) for k in range(1, 61)]
    assert _lines(slow_then_fast)[-1] == "work: 610/1000 steps (10/s, 0:00:39 left)  loss 0.5"


def test_a_rate_stands_however_rare_updates_are() -> None:
    assert _lines([(100.0, 1), (200.0, 2), (300.0, 3)]) == [
        "work: 1/1000 steps  loss 0.5",
        "work: 2/1000 steps (0.01/s, 1 day, 3:43:20 left)  loss 0.5",
        "work: 3/1000 steps (0.01/s, 1 day, 3:41:40 left)  loss 0.5",
    ]


def test_what_was_done_before_is_no_speed() -> None:
    assert _lines([(10.0, 500), (20.0, 510)])[-1] == "work: 510/1000 steps (1/s, 0:08:10 left)  loss 0.5"


def test_no_rate_is_negative_where_counting_begins_anew() -> None:
    lines = _lines([(10.0, 0), (20.0, 40), (30.0, 20), (40.0, 60)])
    assert lines == [
        "work: 0/1000 steps  loss 0.5",
        "work: 40/1000 steps (4/s, 0:04:00 left)  loss 0.5",
        "work: 20/1000 steps  loss 0.5",
        "work: 60/1000 steps (4/s, 0:03:55 left)  loss 0.5",
    ]


def test_plain_lines_are_at_most_one_in_five_seconds_and_the_last() -> None:
    lines = _lines([(float(k), k) for k in range(1, 13)], total=12)
    assert [line.split()[1] for line in lines] == ["1/12", "6/12", "11/12", "12/12"]
    assert lines[-1] == "work: 12/12 steps (1/s)  loss 0.5"


def test_what_comes_before_the_first_step_is_said_and_is_no_speed() -> None:
    stream, now = io.StringIO(), [0.0]
    with ProgressBar("train", "steps", stream, clock=lambda: now[0]) as progress:
        progress(0, 10, now="loading")
        for now[0], done in ((60.0, 1), (70.0, 2)):
            progress(done, 10)
    assert stream.getvalue().splitlines() == [
        "train: 0/10 steps  now loading",
        "train: 1/10 steps",
        "train: 2/10 steps (0.1/s, 0:01:20 left)",
    ]


def test_a_terminal_shows_the_same_rate() -> None:
    terminal = Terminal()
    _lines([(10.0, 500), (20.0, 510)], stream=terminal)
    assert "1/s, 0:08:10 left  loss 0.5" in terminal.getvalue()


def test_labels_of_progress_are_no_markup_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with ProgressBar("train [/b] [kdfuy]", stream=terminal) as progress:
        progress(1, 2, cell="[/x]")
    assert "train [/b] [kdfuy]" in terminal.getvalue()


def test_a_bar_fits_80_columns_and_figures_have_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal, now = Terminal(), [0.0]
    with ProgressBar("evaluate", "tasks", terminal, clock=lambda: now[0]) as progress:
        for now[0] in (1.0, 2.0):
            progress(int(now[0]), 168, split="unseen_wording", method="shuffled_condition" * 3)
    assert not {"None", "…"} & set(re.findall("None|…", terminal.getvalue()))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, shown)) <= 80
    assert any(line.startswith("evaluate ") and " 2/168 " in line and "left  split unseen" in line for line in shown)
