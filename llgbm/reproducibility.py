"""What makes a result repeatable, for people: seeds, environment, content hashes, the record of a run, decorators for scripts of your
own, and a check that reruns an evaluation.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache, comparable
from llgbm.delta.cache import MANIFEST
from llgbm.errors import InputError
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.evaluation.task_eval import evaluate
from llgbm.experience import ExperienceBuffer, experience
from llgbm.files import hash_file, hash_json, hash_tensors
from llgbm.tracking.decorators import checkpoint, current_run, reproducible, track_artifacts
from llgbm.tracking.environment import get_environment_info, get_git_info, set_seed
from llgbm.tracking.record import ExperimentLogger
from llgbm.tracking.states import Checkpoint
from llgbm.tracking.store import ArtifactStore
from llgbm.zoo.base import BaseOptions

__all__ = [
    "ArtifactStore",
    "Checkpoint",
    "ExperienceBuffer",
    "ExperimentLogger",
    "checkpoint",
    "compute_delta_cache_hash",
    "compute_model_hash",
    "current_run",
    "experience",
    "get_environment_info",
    "get_git_info",
    "reproducible",
    "set_seed",
    "track_artifacts",
    "verify_reproducibility",
]


def compute_model_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a model's weights."""
    return hash_tensors(model.state_dict())


def compute_delta_cache_hash(cache_dir: str | Path) -> str:
    """SHA-256 over the configuration of a delta cache, its entries' keys and their bytes; paths do not count.

    Raises:
        InputError: The folder is no delta cache, or a file of it is gone.
    """
    if not (Path(cache_dir) / MANIFEST).is_file():
        raise InputError(f"{Path(cache_dir) / MANIFEST}: no such file; give the folder of a delta cache")
    manifest = DeltaCache(cache_dir).manifest
    try:
        entries = sorted([record["key"], hash_file(Path(cache_dir) / record["file"])] for record in manifest["adapters"].values())
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: gone from the delta cache; 'llgbm compute-deltas' computes it anew") from error
    return hash_json([comparable(manifest["config"]), entries])


def verify_reproducibility(
    config_path: str | Path, checkpoint_path: str | Path, expected_metrics: Mapping[str, float], tolerance: float = 0.01
) -> bool:
    """Rerun the evaluation of a generator and compare.

    Args:
        config_path: The run's `config.yaml`.
        checkpoint_path: The generator's folder.
        expected_metrics: `split/method/metric` -> value, e.g. `{"unseen_combination/generated/exact_match": 0.9}`.
        tolerance: Largest absolute difference.

    Returns:
        Whether every expected metric came out within the tolerance.

    Raises:
        InputError: A name is not split/method/metric, or the evaluation has no such split, method or metric.
    """

    wanted = [name.split("/") for name in expected_metrics]
    if not wanted or any(len(parts) != 3 for parts in wanted):
        raise InputError("expected metrics are named split/method/metric, e.g. seen/teacher/exact_match; give at least one")
    splits, methods = (tuple(dict.fromkeys(parts[i] for parts in wanted)) for i in (0, 1))
    config = ExperimentConfig.load(config_path)
    needed = tuple(dict.fromkeys((*methods, "base", "teacher"))) if any(p[2] == "gain_recovered" for p in wanted) else methods
    where = BaseOptions.place(config.model)
    choices = EvaluationConfig(splits=splits, methods=needed, base=where)
    results = evaluate(checkpoint_path, config.checkpoint_folder, choices).to_json()["splits"]
    for (split, method, metric), expected in zip(wanted, expected_metrics.values(), strict=True):
        scores = results[split][method]
        if metric not in scores:
            raise InputError(f"metric {metric!r} is not computed; choose one of {', '.join(scores)}")
        if scores[metric] is None or abs(scores[metric] - expected) > tolerance:
            return False
    return True
