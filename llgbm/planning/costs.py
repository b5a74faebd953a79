"""What a unit of work costs on a machine: measured there in a minute, kept in a file, or assumed and said to be so.

Seconds of a computation are a sum over its counts, each with its own cost; the costs are fitted to real steps of small random
models, from those where calling operations is all to those where products are. Cf. the roofline model, doi:10.1145/1498765.1498785.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import AutoModelForCausalLM, LlamaConfig

from llgbm.bench.clock import alone
from llgbm.checking import read_as
from llgbm.config import ExperimentConfig, LoRAConfig
from llgbm.errors import InputError
from llgbm.files import read_yaml, write_json
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import target_shapes
from llgbm.memory import GIB
from llgbm.names import path_part
from llgbm.planning.steps import Rows, Teachers, forward
from llgbm.planning.work import Work, count
from llgbm.zoo.base import plain_dtype

COSTS_FOLDER = Path(__file__).parent / "devices"
"""Costs that come with the package, by name."""
REPEATS = 5
"""Of each measured step; the fastest counts, since whatever else runs only adds."""


@dataclass(frozen=True)
class UnitCosts:
    """Seconds that each count of a `Work` takes on one device, and what is said of that device."""

    operations: float
    """Seconds for calling an operation."""
    wide_flops: float
    """Seconds for a floating-point operation in a product of two matrices."""
    batched_flops: float
    """The same in batched products and attention."""
    moved_bytes: float
    """Seconds for a byte that is read or written."""
    device: str
    """What was measured."""
    kind: str = "cpu"
    """Kind of device: cpu or cuda."""
    dtype: str = "float32"
    """Precision of the base's weights that these costs are for."""
    memory_gb: float | None = None
    """GiB that a device has; null: what this machine has."""
    measured: bool = True
    """Whether these are measurements, and not assumptions from a data sheet."""

    def seconds(self, work: Work) -> float:
        """What a computation takes."""
        return float(np.dot(self.units(), work.counts()))

    def units(self) -> tuple[float, ...]:
        """In the order of a work's counts."""
        return tuple(getattr(self, entry.name) for entry in fields(Work))

    def save(self, path: str | Path) -> None:
        """Write them as JSON."""
        write_json(path, asdict(self))


def load_costs(name: str) -> UnitCosts:
    """Costs by file, or by the name of those that come with the package. InputError for neither, and for a file of other content."""
    path = Path(name)
    if not path.is_file():
        path = COSTS_FOLDER / f"{path_part(name, 'costs')}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in COSTS_FOLDER.glob("*.yaml")))
        raise InputError(f"costs {name}: no such file, nor are they among those of the package ({known}); measure with --calibrate FILE")
    costs = read_as(UnitCosts, read_yaml(path), str(path))
    if min(costs.units()) < 0:
        raise InputError(f"{path}: a cost is negative; measure again with --calibrate")
    return costs


@dataclass(frozen=True)
class Sample:
    """A step of a small random model: hidden width, layers, vocabulary; adapters and rows."""

    hidden: int
    layers: int
    vocabulary: int
    rows: Rows


SAMPLES = (
    Sample(64, 2, 256, Rows(8, 4, 32, 4)),
    Sample(64, 2, 256, Rows(40, 8, 32, 4)),
    Sample(128, 3, 128, Rows(20, 8, 32, 4)),
    Sample(256, 4, 4096, Rows(1, 1, 16, 8)),
    Sample(256, 4, 4096, Rows(8, 2, 64, 8)),
    Sample(576, 3, 16384, Rows(8, 2, 48, 8)),
    Sample(1024, 2, 16384, Rows(4, 1, 64, 8)),
    Sample(1024, 2, 16384, Rows(4, 4, 64, 8)),
)


def calibrate(
    device: str, dtype: str, progress: Callable[[int, int], None] | None = None, samples: Sequence[Sample] = SAMPLES
) -> UnitCosts:
    """Measure the costs of this machine with adapters of rank 8 on small random models; takes about a minute.

    Args:
        device: As torch names it.
        dtype: Of the base's weights.
        progress: Called with the samples done and to do.
        samples: What is measured.
    """
    found: list[tuple[Work, float]] = []
    for done, sample in enumerate(samples):
        found += _measure(sample, device, dtype)
        if progress:
            progress(done + 1, len(samples))
    units = fit_units([work for work, _ in found], [seconds for _, seconds in found])
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    memory = torch.cuda.get_device_properties(device).total_memory / GIB if kind == "cuda" else None
    return UnitCosts(*units, device=name, kind=kind, dtype=dtype, memory_gb=memory)


def fit_units(works: Sequence[Work], seconds: Sequence[float]) -> tuple[float, ...]:
    """Costs of the counts, none negative, under which the relative errors of all computations are smallest."""
    shares = np.array([work.counts() for work in works]) / np.array(seconds)[:, None]
    scale = shares.max(0)
    scale[scale == 0] = 1.0
    return tuple(float(cost) for cost in nnls(shares / scale, np.ones(len(shares)))[0] / scale)


def _measure(sample: Sample, device: str, dtype: str) -> Iterator[tuple[Work, float]]:
    """Counts and seconds of a forward, and of a forward and backward."""
    config = ExperimentConfig(lora=LoRAConfig(rank=8))
    size: Any = LlamaConfig(
        hidden_size=sample.hidden,
        intermediate_size=11 * sample.hidden // 4,
        num_hidden_layers=sample.layers,
        num_attention_heads=max(2, sample.hidden // 64),
        num_key_value_heads=max(2, sample.hidden // 64),
        vocab_size=sample.vocabulary,
    )
    model = AutoModelForCausalLM.from_config(size, dtype=plain_dtype(dtype, "a plan")).to(device).requires_grad_(False)
    functional = FunctionalLoRA(model, target_shapes(model, config.lora.target_modules))
    teachers = Teachers(functional, config, sample.rows.adapters)
    for step in (lambda: forward(functional, sample.rows, config.lora.rank), lambda: teachers.micro_batch(sample.rows)):
        yield count(step), min(alone(step) for _ in range(REPEATS))
