"""`llgbm study`: where its config comes from, and steps that need no training."""

import json
from pathlib import Path

import pytest
from study_runs import made_up

from llgbm.cli import main
from llgbm.files import read_text, write_text
from llgbm.study.folder import Study


def test_a_folder_goes_on_with_the_config_it_was_begun_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_up(tmp_path)
    assert main(["study", "report", "--output", str(tmp_path), "--hypotheses.alpha", "0.01", "--json"]) == 0
    assert str(tmp_path / "report.html") in [row["file"] for row in json.loads(capsys.readouterr().out)]
    config = Study.load(tmp_path).config
    assert (config.tasks, config.hypotheses.alpha) == (study.config.tasks, 0.01)
    assert main(["study", "report", "--config", "micro", "--output", str(tmp_path), "--sizes.max_length", "48"]) == 2
    said = capsys.readouterr().err
    assert "holds a study of another config (" in said
    assert "sizes.max_length is 256 there and 48 now; " in said


def test_a_new_folder_takes_a_preset_or_a_file(tmp_path: Path) -> None:
    assert main(["study", "report", "--output", str(tmp_path / "new")]) == 0
    assert "increment-digits-brackets" in read_text(tmp_path / "new" / "report.md")
    write_text(tmp_path / "own.yaml", "tasks: [mrpc]\n")
    assert main(["study", "report", "--config", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "other")]) == 0
    assert Study.load(tmp_path / "other").config.tasks == ["mrpc"]


def test_a_step_without_what_it_needs_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "drift", "--output", str(tmp_path)]) == 2
    assert "no run is finished; run 'llgbm study run' first" in capsys.readouterr().err


def test_an_engine_is_refused_where_a_step_has_no_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "drift", "--output", str(tmp_path), "--engine", "ray"]) == 2
    said = "llgbm: study drift runs in this process; leave out --engine, which is for search, run and all\n"
    assert capsys.readouterr().err == said
