"""`llgbm bench generate`: writing an adapter in one pass, against training one teacher."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llgbm.bench.clock import now
from llgbm.config import ExperimentConfig
from llgbm.lora.peft_io import target_shapes, write_adapter
from llgbm.models.encoder_names import build_encoder
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.zoo.base import load_configured
from llgbm.zoo.build import build_zoo
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite

TOGETHER = 40


def bench_generate(config: ExperimentConfig, repeats: int = 5) -> dict:
    """Median seconds for one adapter from one sentence, for 40 at once, and with its files; seconds to train one teacher, alone and of 40.

    The generator is new: how long it takes does not depend on what it learned.
    """
    base, suite = load_configured(config.model), load_suite(config.zoo.suite)
    shapes = target_shapes(base.model, config.lora.target_modules)
    encoder = build_encoder(config.generator.encoder, base)
    chosen = config.generator
    spec = GeneratorSpec(shapes, config.lora.rank, config.lora.alpha, encoder.dim, size=chosen.size, encoder=chosen.encoder)
    generator = LoRAGenerator(spec, encoder).eval().to(base.model.device)
    descriptions = [task.description for task in list(suite)[:TOGETHER]]
    one = _median(lambda: generator.generate(None, descriptions[0], base), repeats)
    many = _median(lambda: generator.generate(None, descriptions, base), repeats)
    with tempfile.TemporaryDirectory() as folder:
        factors = generator.generate(None, descriptions[0], base)
        write = _median(lambda: write_adapter(Path(folder) / "adapter", factors, base_name=base.name), repeats)
    alone, together = (_teacher_seconds(config, suite, count) for count in (1, TOGETHER))
    return {
        "threads": torch.get_num_threads(),
        "generate_s": one,
        "generate_of_40_s": many / len(descriptions),
        "write_files_s": write,
        "train_teacher_s": alone,
        "train_teacher_of_40_s": together / TOGETHER,
        "share_of_training": one / alone,
        "share_of_training_of_40": many / together,
        "share_with_files": (one + write) / alone,
    }


def _teacher_seconds(config: ExperimentConfig, suite: TaskSuite, count: int) -> float:
    """Seconds to build a zoo of so many teachers."""
    names = [task.name for task in suite if task.split == "seen"][:count]
    with tempfile.TemporaryDirectory() as folder:
        suite.select(names).save(Path(folder) / "suite")
        zoo = replace(config.zoo, suite=str(Path(folder) / "suite"), seeds=[0])
        start = now()
        build_zoo(replace(config, zoo=zoo, checkpoint_folder=str(Path(folder) / "zoo")))
        return now() - start


def _median(work: Callable[[], Any], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = now()
        work()
        seconds.append(now() - start)
    return statistics.median(seconds)
