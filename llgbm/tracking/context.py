"""What surrounds a run, at three levels: code, packages, system, accelerator, container.

basic     commit, branch, whether the tree differs; what changes float bits (`environment`)
standard  and the difference itself (`git.diff`), every package the project needs, memory, disk, devices, container, command
complete  and every installed package, the variables that steer libraries, how torch was built
"""

import os
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from llgbm.tracking.environment import get_environment_info, get_git_diff, get_git_info, get_requirements

Level = Literal["basic", "standard", "complete"]
DIFF_FILE = "git.diff"
MOST_DIFF_BYTES = 4 << 20
"""Of a kept difference: a longer one holds data, and is cut."""
STEERING = (
    "ACCELERATE_",
    "ATEN_",
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "GOMP_",
    "KMP_",
    "LLGBM_",
    "MKL_",
    "NCCL_",
    "OMP_",
    "PYTHON",
    "PYTORCH_",
    "TORCH_",
)
"""How the names of variables begin that change what libraries do; others may hold secrets, and are not recorded."""
SECRET = ("KEY", "PASSWORD", "SECRET", "TOKEN")


def capture(level: Level, checkout: Path | None = None) -> tuple[dict[str, Any], str]:
    """The surroundings of this process, as JSON, and the working tree's difference from its commit (empty at level basic).

    Args:
        level: How much.
        checkout: A folder of the code that runs; by default the package's own.
    """
    found: dict[str, Any] = {"level": level, "git": get_git_info(checkout), "environment": get_environment_info()}
    if level == "basic":
        return found, ""
    diff = get_git_diff(checkout) if found["git"]["dirty"] else ""
    found |= {
        "requirements": {name: version for name, version, _ in get_requirements()},
        "system": _system(),
        "cuda": _devices(),
        "container": _container(),
    }
    if level == "complete":
        found["installed"] = dict(sorted((entry.name, entry.version) for entry in metadata.distributions()))
        found["variables"] = {name: value for name, value in sorted(os.environ.items()) if _steers(name)}
        found["torch_build"] = torch.__config__.show().splitlines()
    return found, diff


def _steers(name: str) -> bool:
    return name.startswith(STEERING) and not any(word in name for word in SECRET)


def _system() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "memory_bytes": psutil.virtual_memory().total,
        "cpus_allowed": len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count(),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
    }


def _devices() -> dict[str, Any] | None:
    """CUDA's versions and devices; None where there are none."""
    if not torch.cuda.is_available():
        return None
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    shown = [{"name": d.name, "memory_bytes": d.total_memory, "capability": f"{d.major}.{d.minor}"} for d in devices]
    return {"version": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "devices": shown}


def _container(root: Path = Path("/")) -> dict[str, Any] | None:
    """The kind of container, by the marks that engines leave in it, and its memory limit; None outside of one.

    Args:
        root: The root of the file system.
    """
    marks = {"docker": root / ".dockerenv", "podman": root / "run" / ".containerenv"}
    kind = next((name for name, path in marks.items() if path.exists()), None)
    if kind is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        kind = "kubernetes"
    if kind is None:
        return None
    limit = root / "sys" / "fs" / "cgroup" / "memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    return {"kind": kind, "memory_limit_bytes": int(text) if text.isdecimal() else None}
