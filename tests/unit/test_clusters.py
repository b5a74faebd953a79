"""The files that start clusters: shell that parses, YAML with the fields an operator needs, and commands that our parser takes."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llgbm.cli import make_parser

ROOT = Path(__file__).parents[2]
SLURM, KUBERNETES = ROOT / "examples" / "cluster" / "slurm.sbatch", ROOT / "examples" / "cluster" / "rayjob.yaml"
pytestmark = pytest.mark.skipif(not SLURM.exists(), reason="there are no examples here")


def job() -> Any:
    return yaml.safe_load(KUBERNETES.read_text())


def commands() -> list[str]:
    """Every command of ours in both files."""
    script = SLURM.read_text().replace("\\\n", " ")
    return [*re.findall(r"^llgbm .*$", script, re.M), job()["spec"]["entrypoint"]]


def test_the_slurm_script_is_bash() -> None:
    assert subprocess.run(["bash", "-n", str(SLURM)], capture_output=True).stderr == b""
    text = SLURM.read_text()
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
