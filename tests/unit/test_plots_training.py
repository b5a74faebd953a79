"""Training curves from metrics files, one run or several."""

import json
from pathlib import Path

import pytest

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.report.plots_training import draw_training


def write_run(folder: Path, terms: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for step in range(1, 31):
        rows.append({"step": step, "loss": 2 / step, "lr": 1e-3, "adapters_per_second": 100.0, **{f"loss/{t}": 1 / step for t in terms}})
        if step % 10 == 0:
            rows[-1] |= {"validation/score": step / 30, "validation/nll": 1 / step}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_several_runs_with_other_terms_share_a_figure(tmp_path: Path, capsys) -> None:
    runs = [write_run(tmp_path / "a" / "one", ("kl", "product")), write_run(tmp_path / "b" / "one", ("kl",))]
    assert main(["visualize", "--type", "training", "--input_dir", *map(str, runs), "--output_dir", str(tmp_path / "figures")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "figures" / "training.svg")
    svg = (tmp_path / "figures" / "training.svg").read_text()
    assert "score on held-back tasks" in svg
    for name in ("loss/kl", "loss/product", "a/one", "b/one"):
        assert f">{name}<" in svg


def test_faults_are_named(tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match=r"no metrics\.jsonl there; give the folder of a run"):
        draw_training([tmp_path], tmp_path)
    flags = ["visualize", "--type", "composition", "--input_dir", "a", "b"]
    assert main(flags) == 2
    assert "--type composition draws from one folder, 2 were given; only training and studies compare several" in capsys.readouterr().err
