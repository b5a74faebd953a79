"""Building a zoo: every missing teacher of a suite, batch by batch, to the same bits however often it is interrupted."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from llgbm.config import ExperimentConfig, ZooConfig, content
from llgbm.dataset import encode_examples, pad_id
from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import adapter_hash, target_shapes, write_adapter
from llgbm.progress import ProgressCallback
from llgbm.scoring import score_each
from llgbm.tracking.record import ExperimentLogger
from llgbm.zoo.base import Base, load_base
from llgbm.zoo.folder import Teacher, TeacherZoo
from llgbm.zoo.suite import Task, TaskSuite
from llgbm.zoo.suites import load_suite
from llgbm.zoo.trainer import make_lesson, train_adapters


def build_zoo(config: ExperimentConfig, progress: ProgressCallback | None = None) -> TeacherZoo:
    """Train every missing teacher of the configured suite and seeds, batch by batch.

    A batch is written whole before the manifest names it; an interrupted build starts again at the batch in hand and
    ends with the same adapters.

    Raises:
        InputError: The folder holds a zoo of another base, suite or training setting.
    """
    base = load_base(config.model.name, config.model.dtype, config.model.device, config.model.revision)
    suite = load_suite(config.zoo.suite)
    folder = Path(config.checkpoint_folder)
    header = _header(config, base, suite)
    rows = _resumable_rows(folder, header)
    shapes = target_shapes(base.model, config.lora.target_modules)
    functional = FunctionalLoRA(base.model, shapes)
    total = len(suite) * len(config.zoo.seeds)
    with ExperimentLogger(folder.parent, folder.name) as logger:
        logger.log_config(content(config))
        logger.log_inputs(base=base.content_hash, suite=suite.content_hash)
        for batch in plan_batches(suite, config.zoo):
            if any(_path(task, seed) not in rows for task, seed in batch):
                on_step = _Within(progress, len(rows), total, len(batch)) if progress else None
                rows |= {t.path: t for t in _train_batch(batch, functional, base, suite.frame, folder, config, on_step)}
                _write_manifest(folder, header, suite, config.zoo, rows)
            if progress:
                progress(len(rows), total)
    return TeacherZoo.load(folder)


class _Within:
    """Progress inside a batch: counts the adapters that are solved so far."""

    def __init__(self, progress: ProgressCallback, done: int, total: int, size: int) -> None:
        self.progress, self.done, self.total, self.size = progress, done, total, size

    def __call__(self, step: int, training: int, loss: float) -> None:
        self.progress(self.done + self.size - training, self.total, step=step, training=training, loss=loss)


def _train_batch(
    batch: list[tuple[Task, int]],
    functional: FunctionalLoRA,
    base: Base,
    frame: str,
    folder: Path,
    config: ExperimentConfig,
    on_step: Callable[[int, int, float], None] | None,
) -> Iterator[Teacher]:
    lessons = [make_lesson(base, frame, task, seed) for task, seed in batch]
    trained = train_adapters(functional, lessons, config.lora, config.zoo, pad_id(base.tokenizer), on_step)
    exact = _test_exact_match(functional, trained.factors, base, frame, [task for task, _ in batch])
    for k, (task, seed) in enumerate(batch):
        path = folder / _path(task, seed)
        write_adapter(path, trained.factors, k, base_name=base.name, fan_in_fan_out=functional.fan_in_fan_out)
        write_json(path / "prompts.json", list(task.prompts))
        yield Teacher(_path(task, seed), task.name, task.domain, task.split, seed, trained.steps[k], exact[k], adapter_hash(path))


def _test_exact_match(functional: FunctionalLoRA, factors: LoRAFactors, base: Base, frame: str, tasks: list[Task]) -> list[float]:
    """Exact match of each adapter on its task's test examples."""
    batches = [encode_examples(base.tokenizer, frame, task.test) for task in tasks]
    return [result.exact_match for result in score_each(functional, factors, batches, pad_id(base.tokenizer))]


def plan_batches(suite: TaskSuite, zoo: ZooConfig) -> Iterator[list[tuple[Task, int]]]:
    """The plan, fixed by suite and settings alone: tasks of one domain train together, so sequences are of a length."""
    jobs = sorted(((task, seed) for seed in zoo.seeds for task in suite), key=lambda job: (job[1], job[0].domain))
    for start in range(0, len(jobs), zoo.adapters_per_batch):
        yield jobs[start : start + zoo.adapters_per_batch]


def _path(task: Task, seed: int) -> str:
    return f"{task.domain}/{task.name}/seed{seed}"


def _header(config: ExperimentConfig, base: Base, suite: TaskSuite) -> dict:
    training = {k: v for k, v in asdict(config.zoo).items() if k not in ("suite", "seeds")}
    return {
        "base": {"name": base.name, "hash": base.content_hash},
        "suite": {"source": str(config.zoo.suite), "hash": suite.content_hash},
        "lora": asdict(config.lora),
        "zoo": training,
    }


def _resumable_rows(folder: Path, header: dict) -> dict[str, Teacher]:
    """What an earlier build finished; refuses a folder that was built otherwise."""
    if not (folder / "manifest.json").exists():
        return {}
    zoo = TeacherZoo.load(folder)
    for key, value in header.items():
        if zoo.manifest.get(key) != value:
            raise InputError(
                f"{folder}: holds a zoo with another {key} ({zoo.manifest.get(key)}, asked for {value}); "
                "choose another checkpoint_folder or remove it"
            )
    return {t.path: t for t in zoo.teachers if (folder / t.path / "adapter_model.safetensors").is_file()}


def _write_manifest(folder: Path, header: dict, suite: TaskSuite, zoo: ZooConfig, rows: dict[str, Teacher]) -> None:
    order = {_path(task, seed): i for i, (task, seed) in enumerate((task, seed) for seed in sorted(zoo.seeds) for task in suite)}
    teachers = sorted(rows.values(), key=lambda t: (order.get(t.path, len(order)), t.path))
    write_json(folder / "manifest.json", {**header, "teachers": [asdict(t) for t in teachers]})
