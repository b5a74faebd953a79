import pytest
from test_report_html import make_run

from llgbm.cli import main


def test_the_page_lies_in_the_run(tmp_path, capsys):
    run = make_run(tmp_path / "first")
    assert main(["report", str(run), "--composition_dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_several_runs_go_where_they_are_told(tmp_path, capsys):
    runs = [str(make_run(tmp_path / name)) for name in ("first", "second")]
    output = tmp_path / "pages" / "both.html"
    assert main(["report", *runs, "--output", str(output), "--composition_dir", str(tmp_path / "none")]) == 0
    assert "first and second" in output.read_text()
    assert not list(tmp_path.glob("*/report.html"))


def test_the_default_is_the_run_of_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 2
    assert capsys.readouterr().err.startswith("llgbm: outputs/delta_multi: not a run")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [("metrics.jsonl", "oops\n", "metrics.jsonl:1: not a line of metrics"), ("eval_main.json", "{}", "eval_main.json: not an evaluation")],
)
def test_bad_input_is_one_sentence_and_status_2(tmp_path, capsys, file, text, message):
    run = make_run(tmp_path / "first")
    (run / file).write_text(text)
    assert main(["report", str(run)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (run / "report.html").exists()
