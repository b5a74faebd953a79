"""The files that start clusters: shell that runs here where it can, YAML with the fields an operator needs, commands our parser takes."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_world import build_world, changed

from llgbm.cli import make_parser
from llgbm.evaluation.task_eval import read_evaluation

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples" / "cluster"
SLURM, KUBERNETES = CLUSTER / "slurm.sbatch", CLUSTER / "rayjob.yaml"
pytestmark = pytest.mark.skipif(not SLURM.exists(), reason="there are no examples here")


def job() -> Any:
    return yaml.safe_load(KUBERNETES.read_text())


def commands() -> list[str]:
    """Every command of ours in both files."""
    script = SLURM.read_text().replace("\\\n", " ")
    return [*re.findall(r"^llgbm .*$", script, re.M), job()["spec"]["entrypoint"]]


@pytest.mark.parametrize("script", sorted([SLURM, *CLUSTER.glob("*.sh")]), ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).stderr == b""


def test_the_slurm_script_asks_for_nodes_and_gives_all_of_them_one_token() -> None:
    text = SLURM.read_text()
    assert re.search(r"RAY_AUTH_MODE=token RAY_AUTH_TOKEN=.*\nexport RAY_AUTH_MODE RAY_AUTH_TOKEN", text)
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time"} <= set(re.findall(r"^#SBATCH --([a-z-]+)=", text, re.M))
    assert re.findall(r"ray start (--head|--address)", text) == ["--head", "--address"]


def test_both_files_hold_commands_that_parse() -> None:
    assert len(commands()) == 3
    for command in commands():
        _, name, *rest = shlex.split(command)
        args = make_parser(name).parse_args(rest)
        assert (args.engine, args.workers > 1, bool(args.address)) == ("ray", True, True)


def test_the_job_has_what_kuberay_asks_for() -> None:
    spec = job()["spec"]
    assert (job()["apiVersion"], job()["kind"]) == ("ray.io/v1", "RayJob")
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#")
    assert spec["rayClusterSpec"]["rayVersion"] == pins["ray"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}  # `ray start` asks for one unless it is told not to
    head, (workers,) = spec["rayClusterSpec"]["headGroupSpec"], spec["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (head, workers):
        (container,) = group["template"]["spec"]["containers"]
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        threads = next(entry["value"] for entry in container["env"] if entry["name"] == "OMP_NUM_THREADS")
        assert int(threads) <= int(container["resources"]["limits"]["cpu"])  # a worker asks Ray for as many CPUs
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_each_worker_of_ours_fits_a_replica() -> None:
    args = make_parser("zoo").parse_args(shlex.split(job()["spec"]["entrypoint"])[2:])
    assert args.workers == job()["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]


SSH = """#!/bin/bash
exec bash -c "$2"  # ssh HOST COMMAND: that host is this one
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ray", path=str(Path(sys.executable).parent)) is None, reason="Ray is not installed")
@pytest.mark.parametrize(("script", "nodes"), [("laptop.sh", []), ("nodes.sh", ["second"])])
def test_a_script_goes_from_zoo_to_scores(script: str, nodes: list[str], tmp_path: Path) -> None:
    """On nodes that are this machine; a node of its own is what ssh would reach."""
    world = changed(build_world(tmp_path / "world"), zoo__suite=str(tmp_path / "world" / "suite"), zoo__steps=4, zoo__check_interval=2)
    config = changed(world, output_dir="outputs", checkpoint_folder="zoo", experiment_name="try", zoo__adapters_per_batch=2)
    config.save(tmp_path / "try.yaml")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    tools = Path(sys.executable).parent
    places = {"PATH": f"{tmp_path / 'bin'}:{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "VENV": str(tools.parent)}
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    settings = {**os.environ, **places, "GPUS": "0", "THREADS": "1", "PORT": port}
    command = ["bash", str(CLUSTER / script), *([" ".join(nodes)] if nodes else []), "try.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_evaluation(tmp_path / "outputs" / "try" / "eval_main.json")["splits"]["seen"]["generated"]
    assert not subprocess.run(["pgrep", "-f", f"port={port}|:{port}"], capture_output=True, text=True).stdout
    for node in nodes:
        assert "Ray runtime started" in (tmp_path / f"ray_{node}.log").read_text()
