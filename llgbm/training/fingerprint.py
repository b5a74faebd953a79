"""The predictor of fingerprints as a problem: from a task's texts to the delta its teacher has, to retrieve adapters by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache, DeltaEngine, compute_deltas, make_engine
from llgbm.errors import InputError
from llgbm.files import hash_tensors
from llgbm.lora.peft_io import find_adapters
from llgbm.losses import check_fingerprints, delta_distance
from llgbm.models.delta_predictor import DeltaPredictor, PredictorSpec
from llgbm.progress import ProgressCallback
from llgbm.training.checkpoints import origin
from llgbm.training.loop import TrainingResult, train
from llgbm.training.plan import StepPlan, plan_step
from llgbm.training.problem import Problem
from llgbm.training.setup import Setup, prepare, spec_of_reader
from llgbm.training.standing import Begin
from llgbm.training.step import VALIDATION_WORDINGS
from llgbm.transfer import to_device
from llgbm.workspace import settle
from llgbm.zoo.folder import Teacher, TeacherZoo


def train_predictor(config: ExperimentConfig, begin: Begin = "new", progress: ProgressCallback | None = None) -> TrainingResult:
    """Train a predictor of the seen tasks' fingerprints; deltas that the cache lacks are computed into it.

    Args:
        config: Its sections generator, training, probe and delta decide the result; `delta_cache_dir` is the cache.
        begin: Whether the run begins in its folder or goes on there.
        progress: Called with the step, the number of steps, and the current figures.

    Raises:
        InputError: A setting, the zoo, the cache or a checkpoint does not fit, or a teacher has no delta.
        DivergedError: The loss is not finite.
    """
    config = settle(config, TeacherZoo.load(config.checkpoint_folder))
    return train(config, lambda device: FingerprintProblem(config, device), begin, progress)


class FingerprintProblem(Problem):
    """Tasks, their teachers' fingerprints, and the predictor of one run; it has no adapters, only F numbers per task."""

    kind = "predictor"

    def __init__(self, config: ExperimentConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.at_once = config.training.tasks_per_step
        setup = self.setup = prepare(config, str(device))
        engine = make_engine(config, base=setup.base)
        train, held = setup.train, setup.validation
        deltas = teacher_deltas(engine, setup.zoo, [*train.teachers, *(held.teachers if held else [])], config.delta_cache_dir)
        self.targets, self.held_targets = deltas[: len(train)].to(device), deltas[len(train) :].to(device)
        check_fingerprints(self.targets)
        self.network: DeltaPredictor = new_predictor(config, setup, engine, self.targets.cpu()).to(device)
        self.hashes = {**origin(config, setup.zoo), "deltas_hash": hash_tensors({"deltas": deltas})}
        self.inputs = {
            "base": setup.base.content_hash,
            "zoo": setup.zoo.content_hash,
            "encoder": setup.encoder.content_id,
            "deltas": self.hashes["deltas_hash"],
        }

    def plan(self, step: int) -> StepPlan:
        return plan_step(self.config.seed, step, len(self.setup.train), self.config.training.tasks_per_step, 1, 1)

    def loss(self, model: Callable[..., Any], part: StepPlan, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Some tasks, each asked for in random words of its own, against their fingerprints."""
        names = [self.setup.train.tasks[k].name for k in part.teachers]
        embeddings, mask = self.setup.conditions.draw(names, part.condition_seeds)
        chosen = self.targets[to_device(torch.tensor(part.teachers), self.device)]
        predicted = model(to_device(embeddings, self.device), to_device(mask, self.device))
        distance = delta_distance(predicted, chosen, self.config.training.delta_loss_type)
        return distance, {"delta": distance.detach()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean cosine to the true fingerprints of held-back tasks, each in several wordings, and mean relative squared error.

        `cosine_of_mean` is what the mean of the training fingerprints gets there, whatever the task.
        """
        held = self.setup.validation
        if held is None:
            return {}
        conditions = [self.setup.conditions.fixed(held.task_names, wording) for wording in range(VALIDATION_WORDINGS)]
        predicted = torch.cat([self.network(*(x.to(self.device) for x in condition)) for condition in conditions])
        actual = self.held_targets.repeat(VALIDATION_WORDINGS, 1)
        return {
            "cosine": F.cosine_similarity(predicted, actual).mean().item(),
            "relative_error": delta_distance(predicted, actual, "mse").item(),
            "cosine_of_mean": F.cosine_similarity(self.network.mean[None], self.held_targets).mean().item(),
        }

    @staticmethod
    def rank(found: Mapping[str, float]) -> tuple[float, ...]:
        """Higher cosine."""
        return (found["cosine"],)

    def shown(self, best: Mapping[str, float]) -> dict[str, float]:
        return {"cosine": best["cosine"]}


def new_predictor(config: ExperimentConfig, setup: Setup, engine: DeltaEngine, targets: Float[Tensor, "P F"]) -> DeltaPredictor:
    """A predictor that says the training deltas' mean so far."""
    spec = PredictorSpec(
        delta_dim=targets.shape[1],
        delta_config=engine.config,
        probe=asdict(config.probe),
        delta=asdict(config.delta),
        **spec_of_reader(config, setup),
    )
    predictor = DeltaPredictor(spec, setup.encoder)
    predictor.fit_scale(targets)
    return predictor


def teacher_deltas(engine: DeltaEngine, zoo: TeacherZoo, teachers: Sequence[Teacher], cache_dir: str | Path) -> Float[Tensor, "P F"]:
    """The teachers' flattened deltas, float32; what the cache lacks of the zoo is computed into it.

    The whole zoo goes through the engine as in `llgbm compute-deltas`, so the cache gets the same bits from either.

    Raises:
        InputError: The cache is another configuration's, or a teacher cannot be read or has no finite delta.
    """
    zoo.check(teachers)
    report = compute_deltas(engine, find_adapters(zoo.folder), DeltaCache(cache_dir))
    cache = DeltaCache(cache_dir)  # read anew: several processes have each stored a part
    paths = [str(zoo.folder / teacher.path) for teacher in teachers]
    failed = next((path for path in paths if path in report.failed), None)
    if failed is not None:
        raise InputError(f"teacher {failed} has no delta to learn: {report.failed[failed]}")
    found = {path: cache.get_delta(path) for path in paths}
    missing = next((path for path, delta in found.items() if delta is None), None)
    if missing is not None:
        raise InputError(f"{cache_dir}: holds no delta of teacher {missing}; build the zoo again, its folder is not whole")
    return torch.stack([torch.from_numpy(delta).flatten() for delta in found.values() if delta is not None])
