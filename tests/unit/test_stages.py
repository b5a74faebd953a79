"""Stages run once for the same inputs, again for others, and never count as done when they fail."""

from pathlib import Path

import pytest

from llgbm.tracking.stages import Stages


def test_stage_runs_once_per_input_and_while_its_output_is_there(tmp_path: Path) -> None:
    output, runs = tmp_path / "out", []

    def work() -> None:
        runs.append(1)
        output.write_text("x")

    stages = Stages(tmp_path / "stages.json")
    assert stages.run("a", {"x": 1}, [output], work)
    assert not Stages(tmp_path / "stages.json").run("a", {"x": 1}, [output], work)
    assert stages.run("a", {"x": 2}, [output], work)
    output.unlink()
    assert stages.run("a", {"x": 2}, [output], work)
    assert len(runs) == 3


def test_a_forgotten_stage_runs_again_and_no_other(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "stages.json")
    for name in ("a", "other"):
        stages.run(name, 1, [], lambda: None)
    stages.forget("a")
    assert stages.run("a", 1, [], lambda: None)
    assert not stages.run("other", 1, [], lambda: None)


def test_failed_stage_is_not_done_and_others_stay_done(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "stages.json")
    stages.run("other", 1, [], lambda: None)
    stages.run("a", 1, [], lambda: None)
    with pytest.raises(RuntimeError, match="broken"):
        stages.run("a", 2, [], lambda: (_ for _ in ()).throw(RuntimeError("broken")))
    assert stages.run("a", 1, [], lambda: None)
    assert not stages.run("other", 1, [], lambda: None)
