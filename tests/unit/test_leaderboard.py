"""The leaderboard's page says what its file says, and a study's results become entries."""

import json
import re
from pathlib import Path

import pytest

from llgbm.errors import InputError
from llgbm.report.leaderboard import BEGIN, BENCHMARKS, END, Entry, Figure, add_entries, entries_of_study, read_entries, tables, write_page
from llgbm.report.plots_study import draw_leaderboard

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_agrees_with_the_file() -> None:
    shown = (DOCS / "benchmark.md").read_text().split(BEGIN)[1].split(END)[0].strip()
    assert shown == tables(read_entries(DOCS / "leaderboard.json")), "run python scripts/write_leaderboard.py"


def study(name: str, together: bool = False, axis: str | None = None, **rows: float) -> dict:
    """A result with one row for each `variant__split__method`."""
    named = [dict(zip(("variant", "split", "method"), key.split("__"), strict=True), score=value) for key, value in rows.items()]
    full = [{**row, "variant": row["variant"].replace("_", " "), "low": None, "high": 1.02, "n_seeds": 3} for row in named]
    return {"study": {"name": name, "together": together, "axis": axis}, "rows": full}


def test_a_studys_means_become_entries() -> None:
    words = study("words", True, fold_0__seen__generated=0.1, mean_of_8__seen__generated=0.9, mean_of_8__unseen_both__ridge=0.25)
    ours, ridge = entries_of_study(words, "mine", "2 s", "llgbm ablate words")
    assert ours == {
        **{"benchmark": "words", "entry": "mine", "seeds": 3, "cost": "2 s", "command": "llgbm ablate words"},
        "figures": {"seen": {"mean": 90.0, "low": None, "high": 100.0}},
    }
    assert (ridge["entry"], ridge["cost"], list(ridge["figures"])) == ("ridge", "-", ["unseen both"])
    few = study("few", axis="seen tasks", **{"a,_15__unseen_combination__generated": 0.5, "a,_15__seen__generated": 0.6})
    assert entries_of_study(few, "mine", "-", "-")[0]["figures"].keys() == {"15"}
    wild = study("wild", **{"25%_of_pairs__unseen_combination__generated": 0.5})
    assert entries_of_study(wild, "mine", "-", "-")[0]["figures"].keys() == {"25% of pairs"}
    with pytest.raises(InputError, match="study objectives is no benchmark; choose one of micro, few"):
        entries_of_study(study("objectives"), "mine", "-", "-")
    with pytest.raises(InputError, match="study words: its folds have no mean yet"):
        entries_of_study(study("words", True, fold_0__seen__generated=0.1), "mine", "-", "-")


def test_an_entry_of_the_same_name_is_replaced_and_written(tmp_path: Path) -> None:
    file, page = tmp_path / "board.json", tmp_path / "page.md"
    file.write_text("[]")
    for value in (0.5, 0.75):
        result = study("wild", **{"25%_of_pairs__unseen_combination__generated": value})
        add_entries(file, entries_of_study(result, "mine", "2 s", "llgbm ablate wild"))
    page.write_text(f"before\n{BEGIN}\nearlier tables\n{END}\nafter\n")
    write_page(page, file)
    text = page.read_text()
    assert "| mine | 75.0 | 3 | 2 s | `llgbm ablate wild` |" in text
    assert "earlier tables" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert text.count("No entries yet") == len(BENCHMARKS) - 1
    page.write_text("nothing")
    with pytest.raises(InputError, match="has no place for the leaderboard"):
        write_page(page, file)


def test_what_is_no_leaderboard_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    file.write_text("{}")
    with pytest.raises(InputError, match="holds no list of entries"):
        read_entries(file)
    entry = {"benchmark": "mine", "entry": "x", "seeds": 1, "figures": {}, "cost": "-", "command": "-"}
    file.write_text(json.dumps([entry]))
    with pytest.raises(InputError, match="entry 1: benchmark 'mine' is unknown; choose from micro"):
        read_entries(file)
    file.write_text(json.dumps([{**entry, "figures": {"seen": {"mean": 101}}}]))
    with pytest.raises(InputError, match=r"figures\.seen\.mean must be at most 100"):
        read_entries(file)


def test_entries_with_every_column_make_curves(tmp_path: Path) -> None:
    def entry(name: str, cost: str, **figures: float) -> Entry:
        columns = {column.strip("_"): Figure(mean, mean - 1, mean + 1) for column, mean in figures.items()}
        return Entry("few", name, 5, columns, cost, "-")

    entries = [entry("ours", "2 s", _15=20, _60=90), entry("ridge", "-", _15=10, _60=80), entry("earlier", "2 s", _60=50)]
    draw_leaderboard(entries, ["few"], "seen tasks", tmp_path / "curves.png")
    texts = re.findall("<!-- (.*) -->", (tmp_path / "curves.svg").read_text())
    assert {"MicroZoo-Few", "seen tasks", "15", "60", "generated", "ridge"} <= {*texts}
    assert "earlier" not in texts
    with pytest.raises(InputError, match="benchmark few: no entry of the leaderboard has every column"):
        draw_leaderboard([*entries[2:], entry("ours", "2 s", _15=20)], ["few"], "seen tasks", tmp_path / "none.png")
