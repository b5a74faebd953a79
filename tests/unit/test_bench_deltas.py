"""The benchmark's ways agree: what it times is the same work."""

import json
from pathlib import Path

import pytest
import torch
from tolerance import depth, rounding

from llgbm.bench.deltas import bench_deltas, compare_deltas
from llgbm.cli import bench, main
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaEngine
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes, write_adapter
from llgbm.probes import load_probes
from llgbm.zoo.base import Base, load_base


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("micro")


def _adapters(base: Base, folder: Path, count: int) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    factors = LoRAFactors.initialize(target_shapes(base.model, ["q_proj", "down_proj"]), 2, 4.0, count)
    factors = factors.map(lambda t: torch.randn(t.shape, generator=generator) * 0.1)
    paths = [folder / str(k) for k in range(count)]
    for k, path in enumerate(paths):
        write_adapter(path, factors, k, base_name="micro")
    return paths


@pytest.mark.numeric
def test_engine_and_peft_do_the_same_work(base: Base, tmp_path: Path) -> None:
    probes = load_probes("generic")
    figures = compare_deltas(base, _adapters(base, tmp_path, 3), probes, repeats=1)
    tolerance = rounding(DeltaEngine(base, probes).base_states, length=512, depth=depth(5))
    assert figures["max_difference"] < tolerance < 1e-3 * figures["largest_delta"]
    assert (figures["n_adapters"], figures["n_probes"]) == (3, 5)
    assert figures["speedup_over_peft"] == figures["peft_s"] / figures["engine_s"]


def test_broken_adapters_and_no_zoo_are_refused(base: Base, tmp_path: Path) -> None:
    paths = _adapters(base, tmp_path, 2)
    (paths[1] / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"1: adapter_model.safetensors is truncated or broken"):
        compare_deltas(base, paths, load_probes("generic"), repeats=1)
    with pytest.raises(InputError, match="no adapters to measure"):
        compare_deltas(base, [], load_probes("generic"), repeats=1)
    with pytest.raises(InputError, match="not a zoo"):
        bench_deltas(ExperimentConfig(checkpoint_folder=str(tmp_path)))


def test_command_writes_figures_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(bench.BENCHMARKS, "deltas", ("test_bench_deltas", "figures"))
    assert main(["bench", "deltas", "--result_dir", str(tmp_path)]) == 0
    assert "bench deltas" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench_deltas.json").read_text())["figures"]["engine_s"] == 1.0
    assert all((tmp_path / f"bench_deltas.{suffix}").stat().st_size for suffix in ("png", "svg"))
    assert main(["bench", "deltas", "--result_dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deltas": {"engine_s": 1.0, "peft_s": 40.0}}


def figures(config: ExperimentConfig) -> dict:
    """Stands for a benchmark."""
    return {"engine_s": 1.0, "peft_s": 40.0}
