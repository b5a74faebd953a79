"""The engine of a Ray cluster: one actor for each worker, items handed out one by one, a lost worker's item done by another.

Ray is imported when an engine is opened, not before. Its processes talk in pickles; what this package writes to disk never is one.
"""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llgbm.errors import InputError, first_line
from llgbm.fanout.crew import Job
from llgbm.fanout.ray_crew import RayCrew
from llgbm.fanout.shared import marked
from llgbm.files import absolute
from llgbm.tracking.environment import SWITCHES

LOCAL_STORE_BYTES = 256 * 2**20
"""Ray's store of objects on a cluster of this machine alone; what does not fit goes to disk."""
CARRIED = (*SWITCHES, "PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that a worker gets as the driver has them."""
GIB = 1 << 30
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Seat:
    """What a worker asks of Ray."""

    threads: int
    gpu: bool = False
    memory_gb: float | None = None
    """Of main memory; Ray then puts no more workers on a node than fit by it."""

    def options(self) -> dict[str, Any]:
        """As `ray.remote` takes them."""
        environment = {name: os.environ[name] for name in CARRIED if name in os.environ}
        environment |= {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        environment["PYTHONPATH"] = os.pathsep.join(_places())
        memory = {} if self.memory_gb is None else {"memory": int(self.memory_gb * GIB)}
        return {"num_cpus": self.threads, "num_gpus": int(self.gpu), **memory, "runtime_env": {"env_vars": environment}}

    def fit(self, resources: dict[str, float]) -> int:
        """How many fit on a node with these resources."""
        asked = {"CPU": self.threads, "GPU": int(self.gpu), "memory": 0 if self.memory_gb is None else self.memory_gb * GIB}
        return min(int(resources.get(name, 0) // amount) for name, amount in asked.items() if amount)

    def __str__(self) -> str:
        gpu, memory = ["1 GPU"] if self.gpu else [], [] if self.memory_gb is None else [f"{self.memory_gb:g} GiB"]
        return ", ".join([f"{self.threads} CPU", *gpu, *memory])


class RayEngine:
    """Runs jobs on a cluster; a context manager that is connected while it is open.

    Args:
        address: `host:port` of a cluster, or `auto`; by default the one that RAY_ADDRESS names, else one of this machine alone, which
            listens on loopback and ends with the block.
        workers: How many at most; by default as many as the cluster has room for at any time.
        seat: What each asks for.

    Raises:
        InputError: Ray is not installed, or there is no cluster at that address.
    """

    def __init__(self, address: str | None, workers: int | None, seat: Seat) -> None:
        self.address, self.workers, self.seat = address or os.environ.get("RAY_ADDRESS") or "local", workers, seat
        self._opened: list[Any] = []

    def __enter__(self) -> "RayEngine":
        ray = _import_ray()
        if not ray.is_initialized():
            _connect(ray, self.address)
            self._opened.append(ray)
        return self

    def __exit__(self, *exc: object) -> None:
        while self._opened:
            self._opened.pop().shutdown()

    def room(self) -> int:
        """How many workers the cluster has room for now, were nothing else on it."""
        return sum(self.seat.fit(node["Resources"]) for node in _import_ray().nodes() if node["Alive"])

    @contextmanager
    def crew(self, job: Job) -> Iterator[RayCrew]:
        """As `Engine.crew`.

        Raises:
            InputError: No node of the cluster has room for a worker, and nobody said how many there should be.
        """
        if self.workers is None and not self.room():
            raise InputError(
                f"no node of the Ray cluster at {self.address} has room for a worker ({self.seat}); ask for less (OMP_NUM_THREADS, "
                "--memory_gb, --device), or give --workers N to wait for nodes that are still to come"
            )
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(sys.stderr))  # where Ray says that a process died; results alone are for standard output
            shared = None if job.folder is None else stack.enter_context(marked(job.folder))
            crew = RayCrew(_import_ray(), job, self.seat, lambda: self.workers or self.room(), shared)
            try:
                yield crew
            finally:
                crew.dismiss()


def make_seat(threads: int, device: str, memory_gb: float | None) -> Seat:
    """What a worker needs whose base runs on a device. InputError for one by number, which Ray chooses."""
    kind, _, number = device.partition(":")
    if number:
        raise InputError(f"--device {device}: Ray chooses each worker's GPU; say --device {kind}")
    return Seat(threads, kind == "cuda", memory_gb if kind == "cpu" else None)


def _places() -> list[str]:
    """Where workers look for modules first: as this process does, and where this package lies unless it is installed."""
    given = [absolute(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    own = Path(__file__).parents[2]
    return [*given, *([str(own)] if own.name not in ("site-packages", "dist-packages") and str(own) not in given else [])]


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray, which is not installed; pip install 'llgbm[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    alone = {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    if address not in ("local", "auto"):
        require_answer(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(alone if address == "local" else {}))
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise _nobody_at(address, " ".join(str(error).split())) from error


def require_answer(address: str) -> None:
    """InputError when nobody listens at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _nobody_at(address, first_line(error)) from error


def _nobody_at(address: str, why: str) -> InputError:
    return InputError(
        f"there is no Ray cluster at {address} ({why}); start one with 'ray start --head', or leave out --address; for one that asks for a "
        "token set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )
