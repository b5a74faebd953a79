"""A zoo in which one adapter in twenty is broken: every command names them all and goes on, or refuses in one sentence."""

from pathlib import Path

import pytest

from llgbm.bench import broken as broken_adapters
from llgbm.bench.broken import DAMAGES, ONE_IN, bench_broken, break_some, write_zoo
from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache
from llgbm.zoo.base import load_base
from llgbm.zoo.folder import TeacherZoo


@pytest.mark.slow
def test_a_twentieth_of_a_hundred_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, deltas = tmp_path / "zoo", str(tmp_path / "deltas")
    paths = write_zoo(folder, load_base("micro"), 100)
    TeacherZoo.load(folder).check(TeacherZoo.load(folder).teachers)
    broken = {str(path) for path in break_some(paths)}
    assert len(broken) == 100 // ONE_IN >= len(DAMAGES)
    for done in ("95 computed, 0 reused, 5 failed", "0 computed, 95 reused, 5 failed"):
        assert main(["compute-deltas", "--zoo", str(folder), "--deltas", deltas, "--quiet"]) == 2
        out, err = capsys.readouterr()
        assert done in out
        assert len(err.splitlines()) == 5
        assert {path for path in broken if any(path in line for line in err.splitlines())} == broken
    assert not broken & DeltaCache(deltas).manifest["adapters"].keys()
    assert main(["retrieve", "--adapter", str(paths[0]), "--deltas", deltas, "--quiet"]) == 0
    assert "nearest of 95 adapters" in capsys.readouterr().out
    assert {str(folder / path) for path in TeacherZoo.load(folder).damaged()} == broken
    train = ["train", "smoke", "--run", str(tmp_path / "run"), "--quiet"]
    for command in (train, ["evaluate", "--run", "none", "--output", str(tmp_path), "--quiet"]):
        assert main([*command, "--zoo", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is not as it was trained" in line
        assert " teachers are not, the others are " in line


@pytest.mark.slow
def test_figures_are_of_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = broken_adapters.commands

    def some(folder: Path, adapter: Path) -> dict[str, list[str]]:
        return {name: arguments for name, arguments in asked(folder, adapter).items() if name in ("evaluate", "zoo list")}

    monkeypatch.setattr(broken_adapters, "commands", some)
    refused, listed = bench_broken(ExperimentConfig(), sizes=(2 * ONE_IN,))["rows"]
    assert [(row["command"], row["adapters"], row["broken"]) for row in (refused, listed)] == [("evaluate", 40, 2), ("zoo list", 40, 2)]
    assert [(row["status"], row["sentences"]) for row in (refused, listed)] == [(2, 1), (0, 0)]
    assert refused["host_peak_mib"] > listed["host_peak_mib"] > 50
