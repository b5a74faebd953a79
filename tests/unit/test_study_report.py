"""A study's report: whole, with parts missing, safe against hostile names, the same for the same files."""

import dataclasses
import re
from pathlib import Path

import pytest
from study_runs import made_up
from test_hypotheses import add_times
from test_report_html import Page

from llgbm.files import read_text
from llgbm.report.study import as_page, run_report
from llgbm.report.study_parts import Card, Missing, Section, Text, as_markdown, rows_table
from llgbm.report.study_sections import setup
from llgbm.report.table import Cell
from llgbm.study.config import build_study
from llgbm.study.deployment import DEPLOYMENT_FILE
from llgbm.study.drift import run_drift
from llgbm.study.folder import CHECKS_FILE, Study
from llgbm.study.hypotheses import run_hypotheses
from llgbm.study.sanity import Check, Checks
from llgbm.study.settings import Best, write_best

pytest.importorskip("cka", reason="pip install 'llgbm[study]'")
pytest.importorskip("statsmodels", reason="pip install 'llgbm[study]'")
HOSTILE = "<script>alert('x')</script> | `a` *b* [c](d)"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with every step done."""
    from llgbm.files import write_json

    study = made_up(tmp_path_factory.mktemp("whole"))
    checks = Checks([Check("one", "lora", "overfit", 1.0, "at least 0.95", True)], {"one": {"majority": {"accuracy": 0.4, "nll": 0.547}}})
    write_json(study.path(CHECKS_FILE), dataclasses.asdict(checks))
    run_drift(study)
    add_times(study, 1.1)
    run_hypotheses(study)
    run_report(study)
    return study


def test_the_page_needs_nothing_but_itself_and_runs_nothing(whole: Study) -> None:
    text = read_text(whole.path("report.html"))
    page = Page(text)
    assert [one["src"][:22] for one in page.all("img") if one["src"]] == ["data:image/png;base64,"] * 4
    assert page.all("script") == page.all("link") == []
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*", "", text).replace("http-equiv", "")
    anchors = {str(one["href"]).removeprefix("#") for one in page.all("a")}
    assert anchors - {"main"} == {one["id"] for one in page.all("section")}


def test_the_page_says_what_was_found(whole: Study) -> None:
    text = read_text(whole.path("report.html"))
    for said in (
        "Supported", "for these trained models; of training anew undecided.", "3 seeds: too few to tell",
        "LoRA keeps at least 97% of full fine-tuning&#39;s score", "LoRA drifts at least 20% less", "80.0%", "overfit", "majority",
        "2 random ones", "100 greedy tokens agreed", "choose one in memory", "3 seeds cannot carry a claim about training anew",
    ):  # fmt: skip
        assert said in text, said
    assert "not there; run" not in text


def test_markdown_has_the_same_sections_tables_and_pictures(whole: Study) -> None:
    text = read_text(whole.path("report.md"))
    assert text.startswith("---\ntitle: 'LoRA against full fine-tuning: micro'\n---\n")
    headings = re.findall(r"^# (.*)$", text, re.M)
    assert headings == Page(read_text(whole.path("report.html"))).texts["h2"]
    pictures = re.findall(r"^!\[.*\]\((.*)\)$", text, re.M)
    assert pictures == [f"figures/{name}.png" for name in ("scores", "drift_map", "drift_curves", "latency")]
    assert all((whole.folder / name).is_file() for name in pictures)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_the_same_files_give_the_same_report(whole: Study) -> None:
    before = {path: path.read_bytes() for path in (whole.path("report.html"), whole.path("report.md"))}
    run_report(whole)
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_missing_is_named_with_its_step(tmp_path: Path) -> None:
    study = Study.open(build_study({"tasks": ["one"]}), tmp_path)
    seen: list[tuple[int, int]] = []
    written = run_report(study, lambda done, total, **_: seen.append((done, total)))
    assert seen[-1] == (4, 4)
    assert [row["file"] for row in written.rows()] == [str(tmp_path / "report.html"), str(tmp_path / "report.md")]
    for text in (read_text(tmp_path / "report.html"), read_text(tmp_path / "report.md")):
        for step in ("check", "run", "drift", "deploy", "hypotheses"):
            assert f"llgbm study {step} --output {tmp_path}" in text


def test_part_of_the_runs_and_one_method_make_a_report(tmp_path: Path) -> None:
    study = made_up(tmp_path, seeds=2, drift={"lora": 0.2})
    (study.run_folder("two", "lora", 0) / "result.json").unlink()
    run_drift(study)
    run_report(study)
    text = read_text(tmp_path / "report.html")
    assert "1 of 4 runs are not finished" in text
    assert "Scores of both methods with the same seed are not there" in text


def test_a_study_whose_backends_were_all_refused_says_why(tmp_path: Path) -> None:
    from llgbm.files import read_json, write_json

    study = made_up(tmp_path)
    add_times(study, 1.1)
    document = read_json(study.path(DEPLOYMENT_FILE))
    document["models"][0]["backends"][0] |= {"refused": "its tokens are not the reference's", "servings": []}
    document["models"].append({"model": "random-100m", "parameters": 0, "adapters": "", "refused": "no reason", "backends": []})
    write_json(study.path(DEPLOYMENT_FILE), document)
    run_report(study)
    text = read_text(tmp_path / "report.html")
    assert "its tokens are not the reference&#39;s." in text
    assert "random-100m is not served: no reason." in text


def test_more_drift_beside_a_higher_score_is_put_in_words(tmp_path: Path) -> None:
    study = made_up(tmp_path, drift={"full": 0.1, "lora": 0.8}, score={"full": 0.5, "lora": 0.9})
    run_drift(study)
    run_report(study)
    assert "LoRA drifts more and scores more, too" in read_text(tmp_path / "report.md")


def test_a_loss_is_no_share(whole: Study) -> None:
    assert "accuracy 40.0%, loss 0.547 nats a token" in read_text(whole.path("report.md"))


def test_a_search_that_could_not_choose_is_a_limit(tmp_path: Path) -> None:
    study = made_up(tmp_path)
    for task, score in (("one", 1.0), ("two", 0.9)):
        write_best(study, task, "lora", Best(0, 10, "accuracy", score, {"learning_rate": 1e-3}))
    run_report(study)
    assert "In 1 of 2 searches the best trial is right on every validation example" in read_text(tmp_path / "report.md")


def test_texts_are_escaped_in_both() -> None:
    parts = [
        Text(HOSTILE),
        Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        Missing(HOSTILE, "llgbm"),
        rows_table(HOSTILE, ["a"], [[Cell(HOSTILE)]]),
    ]
    page = as_page(HOSTILE, [Section("x", HOSTILE, parts)])
    assert "<script" not in page
    markdown = as_markdown(HOSTILE, [Section("x", HOSTILE, parts)], Path())
    assert r"\<script\>alert('x')\</script\> \| \`a\` \*b\* \[c\](d)" in markdown
    assert not re.search(r"^[^'\n]*[^\\]<script", markdown.split("---\n", 2)[2], re.M)


def test_the_sizes_of_single_tasks_are_said(tmp_path: Path) -> None:
    sizes = {"train_examples": 512, "train_examples_of": {"rte": 128}}
    study = Study(build_study({"tasks": ["sst2", "rte"], "sizes": sizes, "training": {"epochs": 1}}), tmp_path)
    said = str(setup(study, [], lambda step: step))
    assert "512 for training" in said
    assert "; 128 for training on rte" in said
    assert "1 pass over the training examples" in said
