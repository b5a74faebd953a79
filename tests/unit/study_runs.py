"""Folders of studies with made-up runs: states that drift by a given amount, scores of a given mean."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from llgbm.files import write_bytes
from llgbm.study.config import Method, build_study
from llgbm.study.folder import RunResult, Study

TASKS = ["one", "two"]
LAYERS, PROBES, WIDTH = 3, 10, 6
DRIFT: Mapping[Method, float] = {"full": 0.8, "lora": 0.2}
SCORE: Mapping[Method, float] = {"full": 0.8, "lora": 0.8}


def made_up(
    folder: Path, seeds: int = 3, drift: Mapping[Method, float] = DRIFT, score: Mapping[Method, float] = SCORE, n: int = 100
) -> Study:
    """A study with finished runs of two tasks; the same examples are right whatever the method, as far as the means allow."""
    study = Study.open(build_study({"tasks": TASKS, "seeds": list(range(seeds)), "methods": list(drift)}), folder)
    for task, method, seed in study.runs():
        add_run(study, task, method, seed, drift[method], score[method], n)
    return study


def add_run(study: Study, task: str, method: Method, seed: int, drift: float, score: float, n: int = 100) -> None:
    """Write one finished run with states of three steps."""
    rng = np.random.default_rng([TASKS.index(task), seed])
    base = rng.normal(size=(LAYERS + 1, PROBES, WIDTH))
    away = rng.normal(size=base.shape) * (1 + 0.1 * seed)
    for step, share in ((0, 0.0), (5, 0.5), (10, 1.0)):
        pooled = base + share * drift * away
        cosine = (base * pooled).sum(2) / np.linalg.norm(base, axis=2) / np.linalg.norm(pooled, axis=2)
        write_states(study, task, method, seed, step, pooled, cosine)
    right = np.random.default_rng(TASKS.index(task)).permutation(n) < score * n
    study.write_result(
        RunResult(
            task=task, method=method, seed=seed, hyperparameters={"learning_rate": 1e-3}, metric="accuracy",
            metrics={"accuracy": float(right.mean())}, scores=right.astype(float).tolist(), example_ids=[f"test:{i}" for i in range(n)],
            steps=10, seconds=1.0, trainable_parameters=10 if method == "lora" else 100, total_parameters=100,
        )
    )  # fmt: skip


def write_states(
    study: Study, task: str, method: Method, seed: int, step: int, pooled: np.ndarray, cosine: np.ndarray, probes: str = "these"
) -> None:
    tensors = {"pooled": torch.from_numpy(pooled).float().contiguous(), "cosine": torch.from_numpy(cosine).float().contiguous()}
    write_bytes(study.states_file(task, method, seed, step), save(tensors, {"probes": probes}))
