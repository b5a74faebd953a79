"""Write the tables of docs/benchmark.md, and docs/seen_tasks.png, from docs/leaderboard.json: `python scripts/write_leaderboard.py`.

`--study outputs/studies/words/study.json --entry "delta_multi, hashing" --cost "1.4M parameters" --command "llgbm ablate words"` first puts
the results of a study into the file.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from jsonargparse import CLI

from llgbm.files import read_json
from llgbm.report.leaderboard import add_entries, entries_of_study, read_entries, write_page
from llgbm.report.plots_study import draw_leaderboard

DOCS = Path(__file__).parents[1] / "docs"
FILE, PAGE, PICTURE = DOCS / "leaderboard.json", DOCS / "benchmark.md", DOCS / "seen_tasks.png"


def main(study: str | None = None, entry: str = "delta_multi", cost: str = "-", command: str = "-") -> None:
    """Write the page and the picture.

    Args:
        study: A study.json whose results enter first.
        entry: The name its generated adapters enter under.
        cost: Parameters and time.
        command: What makes the figures anew.
    """
    if study is not None:
        add_entries(FILE, entries_of_study(read_json(study), entry, cost, command))
    write_page(PAGE, FILE)
    with TemporaryDirectory() as folder:
        drawn = Path(folder) / PICTURE.name  # as SVG, too, which stays there
        draw_leaderboard(read_entries(FILE), ["few", "few_words"], "seen tasks", drawn)
        shutil.copyfile(drawn, PICTURE)


if __name__ == "__main__":
    CLI(main, as_positional=False)
