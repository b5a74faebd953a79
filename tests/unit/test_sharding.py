"""A base whose layers are spread over processes: what each keeps, and that all divide their work alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llgbm.config import ModelConfig
from llgbm.functional_lora.sharding import shared_bytes
from llgbm.memory import GIB
from llgbm.planning.paper import paper_base, weights_bytes
from llgbm.planning.work import on_paper

SCRIPT = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from llgbm.functional_lora import FunctionalLoRA, shard_layers
from llgbm.memory import GIB
from llgbm.zoo.base import load_base

dist.init_process_group("gloo")
rank, base = dist.get_rank(), load_base("micro")
whole = FunctionalLoRA(load_base("micro").model, [])
functional = FunctionalLoRA(base.model, [], memory_gb=1.0 + rank)
shard_layers(functional, base.model, torch.device("cpu"), "test")
ids = torch.arange(12).view(2, 6)
out, same = (one(None, ids, logits_at=torch.ones_like(ids, dtype=torch.bool), hidden_layers=(1, 2)) for one in (functional, whole))
layers = functional.model.model.layers
free = functional.memory.free_bytes()
said = {
    "kept": sum(p.to_local().numel() for p in layers.parameters()) / sum(p.numel() for p in layers.parameters()),
    "left": sum(p.numel() for p in base.model.model.layers.parameters() if p.device.type != "meta"),
    "apart": max(float((out.logits - same.logits).abs().max()), *(float((out.hidden[k] - same.hidden[k]).abs().max()) for k in (1, 2))),
    "bytes": sum(getattr(p, "to_local", lambda p=p: p)().nbytes for p in functional.model.parameters()),
    "free": free,
    "rows": functional.memory.at_once("rows", GIB // 64, 1000),
    "again": functional.memory.at_once("rows", GIB // 64, 1000),
}
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(said))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [*launch, str(folder / "script.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_each_process_keeps_its_share_and_computes_the_whole(said: list[dict[str, float]]) -> None:
    assert [one["kept"] for one in said] == [0.5, 0.5]
    assert [one["left"] for one in said] == [0, 0]
    assert max(one["apart"] for one in said) < 1e-4


def test_a_plan_knows_what_each_process_keeps(said: list[dict[str, float]]) -> None:
    with on_paper():
        paper = paper_base(ModelConfig("micro"), ["q_proj"], "cpu", GIB)
        (kept, gathered), whole = shared_bytes(paper, 2), weights_bytes(paper)
        alone, _ = shared_bytes(paper, 1)
    assert [one["bytes"] for one in said] == [kept, kept]
    assert alone == whole > kept
    assert 0 < gathered < whole - kept


def test_processes_divide_their_work_alike(said: list[dict[str, float]]) -> None:
    first, second = said
    assert second["free"] > 1.5 * first["free"]
    assert 1 < first["rows"] < 64
    assert first["rows"] == second["rows"] == first["again"] == second["again"]
