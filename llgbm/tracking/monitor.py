"""What a run takes of the machine: processor, memory and GPU, sampled by a thread into `hardware.jsonl` while the run lasts.

The file is the run's heartbeat too: while it grows, the run lives, whatever its steps do.
"""

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from llgbm.files import names_its_faults
from llgbm.memory import GIB
from llgbm.tracking.process import is_first_process
from llgbm.tracking.record import HEARTBEAT_FILE, read_metrics


class HardwareMonitor:
    """Samples from when it is entered until it is left, once at each of the two moments and in between.

    Args:
        folder: The run's.
        interval_s: Seconds between samples; 0 takes none at all.
        goes_on: Continue the earlier samples' time instead of beginning anew.
    """

    def __init__(self, folder: str | Path, interval_s: float, goes_on: bool = False) -> None:
        self.path, self.interval_s = Path(folder) / HEARTBEAT_FILE, interval_s
        self.process, self.gpus = psutil.Process(), Gpus()
        self._goes_on, self._stop = goes_on, threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "HardwareMonitor":
        if self.interval_s and is_first_process():
            rows = list(read_metrics(self.path)) if self._goes_on and self.path.is_file() else []
            self._start = time.monotonic() - (rows[-1]["second"] + 1 if rows else 0)
            if not rows:
                self.path.unlink(missing_ok=True)
            self.gpus.open()
            self._thread = threading.Thread(target=self._watch, name="llgbm-hardware", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the last sample and end; again it does nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def sample(self) -> dict[str, Any]:
        """What is taken now; `second` counts from the beginning, percent of the process are of one core."""
        memory = psutil.virtual_memory()
        return {
            "second": round(time.monotonic() - self._start),
            "process_cpu_percent": self.process.cpu_percent(),
            "process_memory_gib": round(self.process.memory_info().rss / GIB, 4),
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": memory.percent,
            **self.gpus.sample(),
        }

    def _watch(self) -> None:
        """A disk that takes no more ends the watching, not the run, which meets the same fault when it writes itself."""
        with suppress(OSError), names_its_faults(self.path), self.path.open("ab") as file:
            for count in (self.process.cpu_percent, psutil.cpu_percent):
                count()  # from here on they count, in this thread
            going = True
            while going:
                going = not self._stop.wait(self.interval_s)
                file.write(json.dumps(self.sample()).encode() + b"\n")
                file.flush()
        self.gpus.close()


class Gpus:
    """NVIDIA's devices, where their management library and `nvidia-ml-py` are there."""

    def __init__(self) -> None:
        self._library: Any = None
        self._devices: list[Any] = []

    def open(self) -> None:
        """Look for devices; there may be none."""
        try:
            import pynvml  # pyright: ignore[reportMissingImports]
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        self._library = pynvml
        self._devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]

    def sample(self) -> dict[str, float]:
        """Each device's busy time and memory; what a device does not tell is left out."""
        found: dict[str, float] = {}
        for index, device in enumerate(self._devices):
            with suppress(self._library.NVMLError):
                found[f"gpu{index}_percent"] = self._library.nvmlDeviceGetUtilizationRates(device).gpu
            with suppress(self._library.NVMLError):
                found[f"gpu{index}_memory_gib"] = round(self._library.nvmlDeviceGetMemoryInfo(device).used / GIB, 4)
        return found

    def close(self) -> None:
        """Leave the library."""
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library, self._devices = None, []
