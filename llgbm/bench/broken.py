"""`llgbm bench broken`: what commands make of a zoo in which one adapter in twenty is broken; time, memory, and what they say.

The adapters are noisy copies of one on the built-in base, and stand in a zoo's manifest as teachers of its tasks.
"""

import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from llgbm.bench.clock import timed
from llgbm.bench.memory import run_measured
from llgbm.config import ExperimentConfig
from llgbm.files import write_json
from llgbm.lora.adapter_config import CONFIG_FILE
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import PICKLED_TENSOR_FILE, TENSOR_FILE, target_shapes, write_adapter
from llgbm.names import relative_path
from llgbm.zoo.base import Base, load_configured
from llgbm.zoo.manifest import MANIFEST_FILE, Teacher
from llgbm.zoo.suites import load_suite, suite_record

ONE_IN = 20
"""One adapter in so many is broken."""
MIB = 2**20
RANK, ALPHA, TARGETS = 2, 4.0, ["q_proj", "v_proj"]


def bench_broken(config: ExperimentConfig, sizes: Sequence[int] = (100, 1000)) -> dict:
    """Rows of figures, one for each command and number of adapters."""
    base, rows = load_configured(config.model), []
    with tempfile.TemporaryDirectory() as name:
        for size in sizes:
            folder = Path(name) / str(size)
            adapters = write_zoo(folder / "zoo", base, size)
            broken = break_some(adapters)
            for command, arguments in commands(folder, adapters[0]).items():
                (done, peaks), seconds = timed(lambda given=arguments: run_measured(given))
                said = done.stderr.count("llgbm: ")
                row = {"command": command, "adapters": size, "broken": len(broken), "seconds": seconds}
                rows.append({**row, "host_peak_mib": peaks["host"] / MIB, "status": done.returncode, "sentences": said})
    return {"rank": RANK, "rows": rows}


def write_zoo(folder: Path, base: Base, count: int) -> list[Path]:
    """A zoo of random adapters, as if they were teachers of the built-in suite's tasks, in turn and with one seed after the other."""
    suite = load_suite("micro")
    factors = LoRAFactors.initialize(target_shapes(base.model, TARGETS), RANK, ALPHA, 1, torch.Generator().manual_seed(0))
    rows, noise, tasks = [], torch.Generator().manual_seed(1), list(suite)
    for i in range(count):
        for b in factors.b.values():
            b.normal_(std=0.02, generator=noise)
        task, seed = tasks[i % len(tasks)], i // len(tasks)
        path = relative_path(f"{task.domain}/{task.name}/seed{seed}", "teacher")
        write_adapter(folder / path, factors, base_name=base.name)
        rows.append(asdict(Teacher(path, task.name, task.domain, task.split, seed, 1, 1.0, factors.content_hash())))
    lora = {"rank": RANK, "alpha": ALPHA, "target_modules": TARGETS}
    header = {"base": asdict(base.identity), "suite": suite_record(suite, "micro"), "lora": lora, "zoo": {}}
    write_json(folder / MANIFEST_FILE, {**header, "teachers": rows})
    return [folder / row["path"] for row in rows]


def break_some(adapters: Sequence[Path]) -> list[Path]:
    """Break one adapter in `ONE_IN`, in every way in turn; which."""
    broken = list(adapters[ONE_IN // 2 :: ONE_IN])
    for i, folder in enumerate(broken):
        list(DAMAGES.values())[i % len(DAMAGES)](folder)
    return broken


def _truncate(folder: Path) -> None:
    (folder / TENSOR_FILE).write_bytes((folder / TENSOR_FILE).read_bytes()[:-9])


def _lose_config(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()


def _take_from_another_base(folder: Path) -> None:
    shapes = {"model.layers.0.self_attn.q_proj": (48, 48)}
    factors = LoRAFactors.initialize(shapes, RANK, ALPHA)
    write_adapter(folder, factors, base_name="org/another-base")


def _pickle(folder: Path) -> None:
    (folder / TENSOR_FILE).unlink()
    (folder / PICKLED_TENSOR_FILE).write_bytes(pickle.dumps({"weights": shutil.rmtree}))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "no config": _lose_config,
    "another base": _take_from_another_base,
    "a pickle": _pickle,
}
"""Ways to break an adapter's folder."""


def commands(folder: Path, adapter: Path) -> dict[str, list[str]]:
    """What is asked of a zoo, in turn: later commands read what earlier ones left."""
    zoo, deltas, scores = f"--zoo={folder / 'zoo'}", f"--deltas={folder / 'deltas'}", f"--scores={folder / 'scores'}"
    return {
        "compute-deltas": ["compute-deltas", zoo, deltas, "--quiet"],
        "compute-deltas again": ["compute-deltas", zoo, deltas, "--quiet"],
        "retrieve": ["retrieve", f"--adapter={adapter}", deltas, "--quiet"],
        "evaluate": ["evaluate", "--run", "none", zoo, "--methods", "teacher", "--max_examples", "2", scores, f"--output={folder}"],
        "train": ["train", "smoke", zoo, f"--run={folder / 'run'}", "--quiet"],
        "zoo list": ["zoo", "list", zoo],
    }
