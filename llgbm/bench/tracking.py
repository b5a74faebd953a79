"""`llgbm bench tracking` and `llgbm bench store`: what records, monitor and artifact store cost, in interleaved pairs.

A machine that others use is noisy, so seconds of the processor stand beside those of the clock.
"""

import os
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from llgbm.bench.clock import now
from llgbm.config import ExperimentConfig
from llgbm.files import sync
from llgbm.provenance import record_run
from llgbm.tracking.store import ArtifactStore
from llgbm.training.behavior import train_generator

STEPS, PAIRS = 100, 5
"""Of each training, at most; and of trainings."""
FILE_BYTES, CHUNK = 1 << 30, 1 << 20


def bench_tracking(config: ExperimentConfig, steps: int = STEPS, pairs: int = PAIRS) -> dict:
    """The configured training on its zoo without and with tracking, and what keeping its artifacts takes.

    `overhead` is the share of a run of all the config's steps, `training_overhead` that of the steps alone: medians over pairs.
    """
    total = config.training.total_steps
    training = replace(config.training, total_steps=min(steps, total))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, training=training, output_dir=folder)
        off = replace(config, experiment_name="off", tracking=replace(config.tracking, level="basic", monitor_s=0))
        train_generator(off, begin="overwrite")  # caches are warm from here on
        for number in range(pairs):
            ways = {
                "without": lambda: train_generator(off, begin="overwrite"),
                "with": lambda: train_generator(replace(config, experiment_name="on"), begin="overwrite"),
            }
            taken = {name: _taken(ways[name]) for name in (sorted(ways) if number % 2 else ways)}
            store = ArtifactStore(Path(folder) / f"store{number}")
            taken["store"] = _taken(lambda store=store: record_run(store, Path(folder) / "on"))
            rows.append({f"{name}_{clock}": values[k] for name, values in taken.items() for k, clock in enumerate(("s", "cpu_s"))})
    share = training.total_steps / total
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for clock in ("", "_cpu"):
        extra = statistics.median(row[f"with{clock}_s"] / row[f"without{clock}_s"] - 1 for row in rows)
        kept = statistics.median(row[f"store{clock}_s"] / row[f"without{clock}_s"] * share for row in rows)
        found |= {f"training_overhead{clock}": extra, f"overhead{clock}": extra + kept}
    return {"threads": torch.get_num_threads(), "steps": training.total_steps, "steps_of_whole_run": total, **found, "pairs": rows}


def bench_store(config: ExperimentConfig, size_bytes: int = FILE_BYTES, pairs: int = PAIRS) -> dict:
    """A large file into an artifact store, against `sha256sum` and `cp`, and these with a copy brought to the disk, as the store does.

    Args:
        config: Not needed.
        size_bytes: Of the file.
        pairs: How often.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, copy = Path(folder) / "source", Path(folder) / "copy"
        with source.open("wb") as file:
            for _ in range(size_bytes // CHUNK):
                file.write(os.urandom(CHUNK))
        sync(source)
        rows = []
        for number in range(pairs):
            store = ArtifactStore(Path(folder) / f"store{number}")

            def by_tools(synced: bool) -> None:
                with suppress(FileNotFoundError):
                    copy.unlink()
                subprocess.run(["sha256sum", str(source)], check=True, capture_output=True)
                subprocess.run(["cp", str(source), str(copy)], check=True)
                if synced:
                    sync(copy)

            ways = {
                "store": lambda store=store: store.put("large", source),
                "tools": lambda: by_tools(False),
                "synced": lambda: by_tools(True),
            }
            order = list(ways)[number % 3 :] + list(ways)[: number % 3]
            taken = {name: _taken(ways[name]) for name in order}
            rows.append({f"{name}_{clock}": taken[name][k] for name in ways for k, clock in enumerate(("s", "cpu_s"))})
            for blob in (Path(folder) / f"store{number}" / "blobs").glob("*/*"):
                blob.unlink()
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    ratios = {
        f"store_to_{other}{clock}": statistics.median(row[f"store{clock}_s"] / row[f"{other}{clock}_s"] for row in rows)
        for other in ("tools", "synced")
        for clock in ("", "_cpu")
    }
    return {"size_bytes": size_bytes, **found, **ratios, "pairs": rows}


def _taken(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor in this process and those it started."""
    start, before = now(), _cpu_s()
    work()
    return now() - start, _cpu_s() - before


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
