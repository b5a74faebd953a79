"""Behavior alone, two ways: b1, a generator that never sees its teachers' weights; b2, a predictor of fingerprints to retrieve by.

b1 goes through the one training loop of generators. b2 has no adapters to compare, only F numbers per task, so its steps are here;
they too are a function of seed, step number and weights alone.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from llgbm.config import ExperimentConfig, content
from llgbm.delta import DeltaCache, DeltaEngine, compute_deltas, make_engine
from llgbm.errors import InputError
from llgbm.files import hash_tensors, write_json
from llgbm.lora.peft_io import find_adapters
from llgbm.losses import OBJECTIVES, check_fingerprints, delta_distance, schedule_factor
from llgbm.models.delta_predictor import DeltaPredictor, PredictorSpec
from llgbm.models.reader import CONFIG_FILE
from llgbm.progress import ProgressCallback
from llgbm.tracking.environment import set_seed
from llgbm.tracking.record import ExperimentLogger, cut_metrics
from llgbm.training.checkpoints import (
    check_origin,
    clear_run,
    complete_steps,
    load_checkpoint,
    origin,
    prune_checkpoints,
    refuse_other_kind,
    save_checkpoint,
    step_folder,
)
from llgbm.training.loop import DivergedError, LoopState, TrainingResult, train_generator
from llgbm.training.plan import plan_step
from llgbm.training.setup import Setup, prepare
from llgbm.training.step import VALIDATION_WORDINGS
from llgbm.zoo.folder import Teacher, TeacherZoo

IMITATES = frozenset({"fingerprints", "states", "predictions", "logits"})
"""Needs of a term that has something to imitate, unlike a regularizer."""


@dataclass(frozen=True)
class PredictorResult:
    """Where a run lies and how it ended."""

    folder: Path
    predictor: Path
    """Folder of the predictor with the best validation score (the last one without validation)."""
    steps: int
    best_step: int
    validation: dict[str, float]
    """Mean cosine to the true fingerprints of held-back tasks and mean relative squared error; `cosine_of_mean` is what the mean
    of the training fingerprints gets there, whatever the task."""
    seconds: float


@dataclass
class PredictorState(LoopState):
    """What a checkpoint stores; higher cosine is better."""

    def rank(self, found: Mapping[str, float]) -> tuple[float, ...]:
        return (found["cosine"],)


def train_delta_only(
    config: ExperimentConfig, variant: str, resume: bool = False, progress: ProgressCallback | None = None
) -> TrainingResult | PredictorResult:
    """Train one of `VARIANTS`.

    Raises:
        InputError: The variant is unknown, or see the variant's own function.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; choose {' or '.join(VARIANTS)}")
    return VARIANTS[variant](config, resume, progress)


def train_behavior_alone(config: ExperimentConfig, resume: bool = False, progress: ProgressCallback | None = None) -> TrainingResult:
    """b1: a generator trained on behavior, with regularizers.

    Raises:
        InputError: A term compares with the teachers' weights, or no term has any behavior to imitate.
    """
    weights = vars(config.objective)
    structural = next((name for name, weight in weights.items() if weight and "teacher" in OBJECTIVES[name].needs), None)
    if structural is not None:
        raise InputError(
            f"variant b1 learns from behavior alone, but objective.{structural} is {weights[structural]}; set it to 0, or use 'llgbm train'"
        )
    if not any(weight and OBJECTIVES[name].needs & IMITATES for name, weight in weights.items()):
        known = ", ".join(name for name, term in OBJECTIVES.items() if term.needs & IMITATES)
        raise InputError(f"variant b1 has no behavior to learn from: give objective a weight for one of {known}")
    return train_generator(config, resume, progress)


def train_predictor(config: ExperimentConfig, resume: bool = False, progress: ProgressCallback | None = None) -> PredictorResult:
    """b2: a predictor of the seen tasks' fingerprints; deltas that the cache lacks are computed into it.

    Args:
        config: Its sections generator, training, probe and delta decide the result; `delta_cache_dir` is the cache.
        resume: Go on from the newest complete checkpoint of the run folder, if there is one.
        progress: Called with the step, the number of steps, and the current figures.

    Raises:
        InputError: A setting, the zoo, the cache or a checkpoint does not fit, or a teacher has no delta.
        DivergedError: The loss is not finite.
    """
    run = _PredictorRun(config, resume)
    try:
        run.train(progress)
        result = run.finish()
    except BaseException as error:
        if run.logger:
            run.logger.fail(error)
        raise
    if run.logger:
        run.logger.finalize({"best_step": result.best_step, **result.validation})
    return result


def teacher_deltas(engine: DeltaEngine, zoo: TeacherZoo, teachers: Sequence[Teacher], cache_dir: str | Path) -> Float[Tensor, "P F"]:
    """The teachers' flattened deltas, float32; what the cache lacks of the zoo is computed into it.

    The whole zoo goes through the engine as in `llgbm compute-deltas`, so the cache gets the same bits from either.

    Raises:
        InputError: The cache is another configuration's, or a teacher cannot be read or has no finite delta.
    """
    cache = DeltaCache(cache_dir)
    report = compute_deltas(engine, find_adapters(zoo.folder), cache)
    paths = [str(zoo.folder / teacher.path) for teacher in teachers]
    failed = next((path for path in paths if path in report.failed), None)
    if failed is not None:
        raise InputError(f"teacher {failed} has no delta to learn: {report.failed[failed]}")
    found = {path: cache.get_delta(path) for path in paths}
    missing = next((path for path, delta in found.items() if delta is None), None)
    if missing is not None:
        raise InputError(f"{cache_dir}: holds no delta of teacher {missing}; build the zoo again, its folder is not whole")
    return torch.stack([torch.from_numpy(delta).flatten() for delta in found.values() if delta is not None])


class _PredictorRun:
    """One run of b2 and everything it holds."""

    def __init__(self, config: ExperimentConfig, resume: bool) -> None:
        self.config = config
        self.folder = config.run_folder
        self.checkpoints = self.folder / "checkpoints"
        refuse_other_kind(self.folder, "predictor")
        set_seed(config.seed)
        self.setup: Setup = prepare(config, config.model.device)
        self.engine = make_engine(config, base=self.setup.base)
        train, held = self.setup.train, self.setup.validation
        deltas = teacher_deltas(self.engine, self.setup.zoo, [*train.teachers, *(held.teachers if held else [])], config.delta_cache_dir)
        self.targets, self.held_targets = deltas[: len(train)], deltas[len(train) :]
        check_fingerprints(self.targets)
        self.predictor = self._new_predictor()
        rate, decay = config.training.learning_rate, config.training.weight_decay
        self.optimizer = torch.optim.AdamW(self.predictor.parameters(), lr=rate, weight_decay=decay, fused=True)
        self.hashes = {**origin(config, self.setup.zoo), "deltas_hash": hash_tensors({"deltas": deltas})}
        self.state = self._restore() if resume else PredictorState()
        self.logger: ExperimentLogger | None = None

    def _new_predictor(self) -> DeltaPredictor:
        """A predictor that says the training deltas' mean so far."""
        config, setup = self.config, self.setup
        spec = PredictorSpec(
            delta_dim=self.targets.shape[1],
            embedding_dim=setup.encoder.dim,
            delta_config=self.engine.config,
            probe=asdict(config.probe),
            delta=asdict(config.delta),
            size=config.generator.size,
            encoder=config.generator.encoder,
            encoder_id=setup.encoder.content_id,
            condition=config.generator.condition,
            max_prompts=config.generator.max_prompts,
            base_name=setup.base.name,
            base_hash=setup.base.content_hash,
            trained_on=sorted(set(setup.train.task_names)),
            validated_on=sorted(set(setup.validation.task_names)) if setup.validation else [],
        )
        predictor = DeltaPredictor(spec, setup.encoder)
        predictor.fit_scale(self.targets)
        return predictor

    def _begin(self) -> None:
        """Take over the run folder; called when the first step is done, so that bad input costs an earlier run nothing."""
        if not self.state.step:
            clear_run(self.folder, "predictor")
        self.logger = self._open_log()

    def _open_log(self) -> ExperimentLogger:
        logger, setup = ExperimentLogger(self.config.output_dir, self.config.experiment_name), self.setup
        logger.log_config(content(self.config))
        logger.log_inputs(
            base=setup.base.content_hash,
            zoo=self.hashes["zoo_hash"],
            encoder=setup.encoder.content_id,
            deltas=self.hashes["deltas_hash"],
        )
        self.config.save(self.folder / "config.yaml")
        return logger

    def train(self, progress: ProgressCallback | None) -> None:
        training, state = self.config.training, self.state
        start = time.perf_counter() - state.seconds
        while state.step < training.total_steps:
            figures = self._step()
            if self.logger is None:
                self._begin()
            state.step += 1
            state.seconds = time.perf_counter() - start
            last = state.step == training.total_steps
            found = self._validate() if last or state.step % training.eval_interval == 0 else {}
            if self.logger is not None and (found or last or state.step % training.log_interval == 0):
                self.logger.log_metrics(state.step, {**figures, **{f"validation/{k}": v for k, v in found.items()}})
            improved = bool(found or last) and state.improves(found)
            if improved:
                state.best_step, state.best = state.step, found or None
            if improved or last or state.step % training.save_interval == 0:
                save_checkpoint(step_folder(self.checkpoints, state.step), self.predictor, self.optimizer, {**asdict(state), **self.hashes})
                prune_checkpoints(self.checkpoints, {state.step, state.best_step})
            if progress is not None:
                progress(state.step, training.total_steps, loss=figures["loss"], **({"cosine": state.best["cosine"]} if state.best else {}))
        if self.logger is None and not (self.folder / "predictor" / CONFIG_FILE).exists():  # interrupted after the last step
            self._begin()

    def _step(self) -> dict[str, float]:
        """One update on some tasks, each asked for in random words of its own."""
        training, step, train = self.config.training, self.state.step, self.setup.train
        rate = training.learning_rate * schedule_factor("warmup_cosine", step, training.warmup_steps, training.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        plan = plan_step(self.config.seed, step, len(train), training.tasks_per_step, 1, 1)
        embeddings, mask = self.setup.conditions.draw([train.tasks[k].name for k in plan.teachers], plan.condition_seeds)
        loss = delta_distance(self.predictor(embeddings, mask), self.targets[list(plan.teachers)], training.delta_loss_type)
        if not math.isfinite(loss.item()):
            raise DivergedError(f"training stopped at step {step + 1}: delta is {loss.item()}; lower training.learning_rate")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), training.max_grad_norm).item()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item(), "loss/delta": loss.item(), "lr": rate, "grad_norm": norm}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """On held-back tasks, each in several wordings."""
        held = self.setup.validation
        if held is None:
            return {}
        predicted = torch.cat([self.predictor(*self.setup.conditions.fixed(held.task_names, w)) for w in range(VALIDATION_WORDINGS)])
        actual = self.held_targets.repeat(VALIDATION_WORDINGS, 1)
        return {
            "cosine": F.cosine_similarity(predicted, actual).mean().item(),
            "relative_error": delta_distance(predicted, actual, "mse").item(),
            "cosine_of_mean": F.cosine_similarity(self.predictor.mean[None], self.held_targets).mean().item(),
        }

    def _restore(self) -> PredictorState:
        """Load the newest complete checkpoint; step 0 when there is none."""
        steps = complete_steps(self.checkpoints)
        if not steps:
            return PredictorState()
        folder = step_folder(self.checkpoints, steps[-1])
        stored = load_checkpoint(folder, self.predictor, self.optimizer)
        check_origin(folder, stored, self.hashes)
        cut_metrics(self.folder / "metrics.jsonl", stored["step"])
        return PredictorState(stored["step"], stored["best_step"], stored["best"], stored["seconds"])

    def finish(self) -> PredictorResult:
        """Keep the best checkpoint as the run's predictor."""
        state, target = self.state, self.folder / "predictor"
        figures = dict(state.best or {})
        if self.logger:
            DeltaPredictor.from_pretrained(step_folder(self.checkpoints, state.best_step)).save_pretrained(target)
            write_json(self.folder / "training.json", {"steps": state.step, "best_step": state.best_step, **figures})
        return PredictorResult(self.folder, target, state.step, state.best_step, figures, state.seconds)


VARIANTS: dict[str, Callable[[ExperimentConfig, bool, ProgressCallback | None], TrainingResult | PredictorResult]] = {
    "b1": train_behavior_alone,
    "b2": train_predictor,
}
"""Variant -> how it is trained."""
