"""The picture of what a generator does, from saved answers."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.report.plots_answers import draw_answers


def write(folder: Path, **changed: Any) -> Path:
    examples = [
        {"input": "12", "expected": "21", "answers": {"base": "<b>&12", "generated": "21"}},
        {"input": "34", "expected": "43", "answers": {"base": "43", "generated": "x" * 50 + "\n"}},
    ]
    task = {"task": "t", "split": "unseen_combination", "description": "Turn it around. " * 8, "prompts": ["p"], "examples": examples}
    write_json(folder / "example_answers.json", {"methods": [], "tasks": [{**task, **changed}]})
    return folder


def texts(path: Path) -> list[tuple[str, str]]:
    root = ET.fromstring(path.read_text())
    return [(node.get("class", ""), node.text or "") for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_sentence_and_answers_stand_in_it_and_right_ones_look_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert main(["visualize", "--type", "answers", "--run", str(tmp_path), "--output", str(tmp_path)]) == 0
    path = Path(capsys.readouterr().out.strip())
    shown = texts(path)
    assert " ".join(text for look, text in shown if look == "ink") == "“" + ("Turn it around. " * 8) + "”"
    assert {("wrong", "<b>&12"), ("right", "43"), ("right", "21"), ("wrong", "x" * 17 + "…")} <= {*shown}
    assert any("a task the generator never trained on" in text for _, text in shown)
    assert "of 2 inputs the adapted model gets 1 right" in path.read_text()
    before = path.read_bytes()
    draw_answers(tmp_path, tmp_path)
    assert path.read_bytes() == before
    draw_answers(write(tmp_path, split="seen"), tmp_path)
    assert not any("never trained" in text for _, text in texts(path))


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no example_answers\.json there; write it with 'llgbm evaluate --run .* --example_answers 12'"):
        draw_answers(tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"the generator read prompts, not a sentence; draw a run with --generator\.condition description"):
        draw_answers(write(tmp_path, description=None), tmp_path)


def test_the_readmes_picture_shows_what_the_readme_prints() -> None:
    root = Path(__file__).parents[2]
    block = (root / "README.md").read_text().partition("an adapter generated from one sentence")[2].partition("## ")[0]
    rows = [line.split() for line in block.splitlines() if line[:6].strip() == "" and line.strip()[:1].isdigit()]
    shown = {text for _, text in texts(root / "docs" / "answers.svg")}
    assert len(rows) == 3
    assert {cell for row in rows for cell in row} <= shown
