"""`llgbm plan`: a row for each stage, what all of it costs, and one sentence where it cannot be."""

import json
from pathlib import Path

import pytest
import torch

from llgbm.cli import main
from llgbm.planning.costs import SAMPLES, UnitCosts, load_costs

COSTS = UnitCosts(1e-6, 1e-11, 1e-10, 1e-10, device="a machine", memory_gb=4.0)


@pytest.fixture
def costs(tmp_path: Path) -> str:
    COSTS.save(tmp_path / "costs.json")
    return str(tmp_path / "costs.json")


@pytest.mark.slow
def test_a_plan_has_a_row_for_each_stage_and_a_price(costs: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--config", "smoke", "--costs", costs, "--adapters", "50", "--price", "2.5"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in found["stages"]] == ["teachers", "deltas", "generator", "evaluation"]
    assert found["device_hours"] == pytest.approx(sum(row["hours"] for row in found["stages"]), abs=1e-3)
    assert found["cost"] == pytest.approx(2.5 * found["device_hours"])
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "50 adapters" in shown
    assert "device hours" in shown
    assert f"take {50 * found['adapter_bytes'] / 1e6:.3g} MB on disk" in shown
    assert "assumed" not in shown


def test_what_cannot_fit_ends_with_status_2(costs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "smoke", "--costs", costs, "--device_gb", "0.0001"]) == 2
    assert "needs devices of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--gpus", "0"), "--gpus is 0; give 1 or more"),
        (("--price", "-1"), "--price is -1.0; it must be above 0"),
        (("--costs", "nowhere"), "costs nowhere: no such file"),
        (("--costs", "h100"), "the costs are of bfloat16, model.dtype is float32"),
    ],
)
def test_bad_flags_end_with_status_2(flags: tuple[str, str], said: str, costs: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = () if flags[0] == "--costs" else ("--costs", costs)
    assert main(["plan", "--config", "smoke", *given, *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
@pytest.mark.parametrize("flags", [(), ("--calibrate", "costs.json")])
def test_a_device_that_is_elsewhere_needs_its_costs(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "qwen2.5-7b", "--gpus", "8", *flags]) == 2
    assert "to plan for one that is elsewhere give --costs: h100, or what --calibrate wrote there" in capsys.readouterr().err


def test_costs_are_measured_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llgbm.planning.costs.calibrate.__defaults__", (None, SAMPLES[:3]))
    assert main(["plan", "--config", "smoke", "--calibrate", str(tmp_path / "costs.json")]) == 0
    assert "written to" in capsys.readouterr().out
    assert load_costs(str(tmp_path / "costs.json")).measured
