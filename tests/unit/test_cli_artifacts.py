"""`llgbm artifacts`, as a user calls it."""

import json
from pathlib import Path

import pytest

from llgbm.cli import main


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(line: str) -> tuple[int, str, str]:
        status = main(["artifacts", *line.split()])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_a_day_with_the_store(call, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "a.txt").write_text("teacher")
    (tmp_path / "model.txt").write_text("generator")
    assert call("put zoo-mine zoo --kind zoo")[0] == 0
    assert call("put model-mine model.txt --kind model --inputs zoo-mine --aliases best")[0] == 0
    status, out, _ = call("ls --json")
    assert status == 0
    assert [(row["artifact"], row["made_from"], row["aliases"]) for row in json.loads(out)] == [
        ("model-mine:v1", "zoo-mine:v1", "best"),
        ("zoo-mine:v1", None, None),
    ]
    assert "zoo-mine:v1" in call("ls")[1]
    assert "a.txt" in call("show zoo-mine")[1]
    assert call("get zoo-mine:v1 --output again")[0] == 0
    assert (tmp_path / "again" / "a.txt").read_text() == "teacher"
    assert call("alias model-mine:v1 shipped")[0] == 0
    assert 'n0["model-mine:v1 (model)"]' in call("lineage")[1]
    assert len(json.loads(call("lineage --of model-mine:shipped --json")[1])["edges"]) == 1
    assert call("verify")[:2] == (0, "artifacts: 2 artifacts, all as they were put\n")
    assert call("export model-mine --output mine.zip")[0] == 0
    assert [row["archived_as"] for row in json.loads(call("import mine.zip --store there --json")[1])] == ["zoo-mine:v1", "model-mine:v1"]
    assert call("verify --store there")[:2] == (0, "there: 2 artifacts, all as they were put\n")
    assert "removed" in call("rm model-mine:v1")[1]
    assert "made from nothing, and nothing from them: zoo-mine:v1" in call("verify")[1]
    assert json.loads(call("gc --json")[1]) == [{"files_freed": 0, "bytes_freed": 0}]


def test_what_is_wrong_is_said_with_status_2(call, tmp_path: Path) -> None:
    assert call("ls")[0::2] == (2, "llgbm: artifacts: no artifact store there; 'llgbm artifacts put' makes one\n")
    (tmp_path / "a").write_text("a")
    assert call("put ../x a")[0] == 2
    assert call("import a")[0] == 2
    assert call("put x a")[0] == 0
    assert "no artifact x:v2" in call("show x:v2")[2]
    blob = next(path for path in (tmp_path / "artifacts" / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_text("b")
    status, out, err = call("verify")
    assert status == 2
    assert "x:v1/a" in out
    assert err.startswith("llgbm: artifacts: 1 faults, the first is x:v1/a: ")
    assert call("get x --output out")[0] == 2
    assert len(json.loads(call("verify --json")[1])) == 1
