"""Seeds, and the state of code and machine: what changes a result from one run to another."""

import os
import platform
import random
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "scikit-learn")
SWITCHES = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables that choose the kernels of math libraries, or how their threads work."""


def set_seed(seed: int, deterministic: bool = True) -> None:
    """Seed Python, numpy and torch (all devices); with `deterministic`, also ask torch for deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def get_git_info(folder: Path | None = None) -> dict[str, Any]:
    """Commit, branch and whether the working tree differs; None where there is no checkout.

    Args:
        folder: In a checkout; by default where the package runs from.
    """
    folder = folder or Path(__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "branch": None, "dirty": None}
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(_git(folder, "status", "--porcelain")),
    }


def get_git_diff(folder: Path | None = None) -> str:
    """How the tracked files of that checkout differ from its commit; empty where they do not, or there is none."""
    return _git(folder or Path(__file__).parent, "diff", "--no-ext-diff", "--no-color", "HEAD") or ""


def get_environment_info() -> dict[str, Any]:
    """Versions, processor, threads and accelerator: what changes float bits from one machine to another."""
    cuda = torch.cuda.is_available()
    return {
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "cuda_available": cuda,
        "cuda_version": torch.version.cuda,
        "gpu_name": torch.cuda.get_device_name(0) if cuda else None,
        "num_gpus": torch.cuda.device_count() if cuda else 0,
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu_model": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "pythonhashseed": os.environ.get("PYTHONHASHSEED"),
        "switches": {name: os.environ.get(name) for name in SWITCHES},
    }


def get_requirements() -> Iterator[tuple[str, str | None, SpecifierSet]]:
    """Each runtime dependency of the package: its name, the version installed (None without one), and the versions asked for."""
    for line in metadata.requires("llgbm") or []:
        requirement = Requirement(line)
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name, _version(requirement.name), requirement.specifier


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip("\n")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
