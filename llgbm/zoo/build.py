"""Building a zoo: every missing teacher of a suite, batch by batch, to the same bits however often it is interrupted.

The manifest remembers which teachers train together. Tasks and seeds that are new to a zoo form batches of their own, so what
is there stays as it is; an adapter that was lost is trained again among its old batch mates, which gives its old bits.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llgbm.config import UNSCIENTIFIC, ExperimentConfig, ZooConfig, content
from llgbm.errors import InputError
from llgbm.files import absolute, write_json
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import adapter_hash, target_shapes, write_adapter
from llgbm.matching import score_answers
from llgbm.names import path_part
from llgbm.percent import percent
from llgbm.progress import ProgressCallback
from llgbm.tracking.environment import set_seed
from llgbm.tracking.lock import hold
from llgbm.tracking.record import ExperimentLogger, refuse_run
from llgbm.tracking.validation import look_up
from llgbm.zoo.base import CONTENT, Base, load_configured
from llgbm.zoo.check import require_fit
from llgbm.zoo.folder import Teacher, TeacherZoo
from llgbm.zoo.named import loadable_name
from llgbm.zoo.suite import Task, TaskSuite
from llgbm.zoo.suites import load_suite, suite_record
from llgbm.zoo.trainer import adapters_at_once, make_lesson, train_adapters

WEAK, NEAR = 0.5, 0.05
"""A teacher below this exact match is compared with the base, and warned of where it is not so much better."""
logger = logging.getLogger(__name__)


def build_zoo(config: ExperimentConfig, progress: ProgressCallback | None = None) -> TeacherZoo:
    """Train every missing teacher of the configured suite and seeds, batch by batch; teachers that are there are not touched.

    A batch is written whole before the manifest names it; an interrupted build starts again at the batch in hand and
    ends with the same adapters. Adapters that are lost, or not as they were trained, are trained again to the same bits.

    Raises:
        InputError: The base is not fit for the suite (see `zoo.check`); or the folder holds a zoo of another base or training
            setting, of a suite whose tasks have changed, or a run; or another process builds there.
    """
    refuse_run(config.checkpoint_folder, "a zoo")
    with hold(config.checkpoint_folder):
        return _build_alone(config, progress)


def _build_alone(config: ExperimentConfig, progress: ProgressCallback | None) -> TeacherZoo:
    set_seed(config.seed)
    points = {"before": look_up(config.seed, config.model.device)}
    base = load_configured(config.model)
    suite = load_suite(config.zoo.suite)
    framing = Framing.of(base, suite, config.zoo)
    folder = Path(absolute(config.checkpoint_folder))
    header = _header(config, base, suite)
    rows, planned = _resumable(folder, header)
    functional = FunctionalLoRA(base.model, target_shapes(base.model, config.lora.target_modules), config.model.memory_gb)
    together = adapters_at_once(functional, config.lora, config.zoo)
    batches = list(plan_batches(suite, replace(config.zoo, adapters_per_batch=together), planned))
    header["batches"] = [[_path(task, seed) for task, seed in batch] for batch in batches]
    wanted = {_path(task, seed) for task in suite for seed in config.zoo.seeds}
    if wanted - rows.keys():
        for finding in require_fit(base, framing, suite):
            logger.info("%s: %s", finding.check, finding.found)
    before = set(rows)
    with ExperimentLogger(folder.parent, folder.name, config.tracking.level) as record:
        record.log_config(content(config))
        record.log_inputs(base=base.content_hash, suite=suite.content_hash)
        record.log_details(points=points)
        _write_manifest(folder, header, suite, config.zoo, rows)
        for batch in batches:
            missing = {path for path in (_path(task, seed) for task, seed in batch) if path in wanted and path not in rows}
            if missing:
                on_step = _Within(progress, len(wanted & rows.keys()), len(wanted), len(batch)) if progress else None
                rows |= {t.path: t for t in _train_batch(batch, missing, functional, base, framing, folder, config, on_step)}
                _write_manifest(folder, header, suite, config.zoo, rows)
            if progress:
                progress(len(wanted & rows.keys()), len(wanted))
        record.log_details(points={**points, "after": look_up(config.seed, config.model.device, again=True)})
    _warn_of_weak([row for path, row in rows.items() if path not in before], functional, framing, suite)
    return TeacherZoo.load(folder)


def _warn_of_weak(trained: Sequence[Teacher], functional: FunctionalLoRA, framing: Framing, suite: TaskSuite) -> None:
    """Say which teachers learned next to nothing, and what may help."""
    weak = [teacher for teacher in trained if teacher.exact_match < WEAK]
    batches = [framing.batch(framing.of_task(suite[teacher.task], "test")) for teacher in weak]
    base = [score_answers(functional, None, [batch], framing)[0].exact_match for batch in batches]
    near = [(t.exact_match, alone, t.task) for t, alone in zip(weak, base, strict=True) if t.exact_match - alone < NEAR]
    if near:
        exact, alone, task = min(near)
        logger.warning(
            "%d of %d teachers answer no better than the base alone (%s: %s against %s); raise zoo.steps, zoo.batch_size or lora.rank, "
            "try another zoo.learning_rate or frame, or begin with the preset real_base",
            *(len(near), len(trained), task, percent(exact), percent(alone)),
        )


class _Within:
    """Progress inside a batch: counts the adapters that are solved so far."""

    def __init__(self, progress: ProgressCallback, done: int, total: int, size: int) -> None:
        self.progress, self.done, self.total, self.size = progress, done, total, size

    def __call__(self, step: int, training: int, loss: float) -> None:
        self.progress(self.done + self.size - training, self.total, step=step, training=training, loss=loss)


def _train_batch(
    batch: list[tuple[Task, int]],
    missing: set[str],
    functional: FunctionalLoRA,
    base: Base,
    framing: Framing,
    folder: Path,
    config: ExperimentConfig,
    on_step: Callable[[int, int, float], None] | None,
) -> Iterator[Teacher]:
    """Train a batch; write and yield its missing teachers only."""
    lessons = [make_lesson(framing, task, seed) for task, seed in batch]
    trained = train_adapters(functional, lessons, config.lora, config.zoo, framing.pad, on_step)
    chosen = [k for k, (task, seed) in enumerate(batch) if _path(task, seed) in missing]
    exact = _test_exact_match(functional, trained.factors.select(chosen), framing, [batch[k][0] for k in chosen])
    for k, found in zip(chosen, exact, strict=True):
        task, seed = batch[k]
        path = folder / _path(task, seed)
        found_again = {"revision": base.revision}
        write_adapter(
            path, trained.factors, k, base_name=loadable_name(base.name), fan_in_fan_out=functional.fan_in_fan_out, extra_config=found_again
        )
        write_json(path / "prompts.json", list(task.prompts))
        yield Teacher(_path(task, seed), task.name, task.domain, task.split, seed, trained.steps[k], found, adapter_hash(path))


def _test_exact_match(functional: FunctionalLoRA, factors: LoRAFactors, framing: Framing, tasks: list[Task]) -> list[float]:
    """Exact match of each adapter on its task's test examples."""
    batches = [framing.batch(framing.of_task(task, "test")) for task in tasks]
    return [result.exact_match for result in score_answers(functional, factors, batches, framing)]


def plan_batches(suite: TaskSuite, zoo: ZooConfig, planned: Iterable[Sequence[str]] = ()) -> Iterator[list[tuple[Task, int]]]:
    """Which teachers train together: batches planned before, by their paths, then whatever is in none of them.

    The rest is ordered by seed and domain and cut every `zoo.adapters_per_batch` teachers, whatever they are: most batches are of one
    domain, so that sequences are of about a length, but one may end a domain or a seed and begin the next. What was planned before
    decides what is left, so a suite that has grown is divided otherwise than if it had been built at once.
    """
    wanted = sorted(((task, seed) for seed in zoo.seeds for task in suite), key=lambda job: (job[1], job[0].domain))
    by_folder = {_path(task, 0).rpartition("/")[0]: task for task in suite}
    known: set[str] = set()
    for paths in planned:
        known |= set(paths)
        yield [(by_folder[folder], int(seed.removeprefix("seed"))) for folder, _, seed in (path.rpartition("/") for path in paths)]
    jobs = [(task, seed) for task, seed in wanted if _path(task, seed) not in known]
    for start in range(0, len(jobs), zoo.adapters_per_batch):
        yield jobs[start : start + zoo.adapters_per_batch]


def _path(task: Task, seed: int) -> str:
    return "/".join((path_part(task.domain, "domain"), path_part(task.name, "task"), f"seed{seed}"))


def _header(config: ExperimentConfig, base: Base, suite: TaskSuite) -> dict[str, Any]:
    training = {k: v for k, v in asdict(config.zoo).items() if k not in ("suite", "seeds")}
    return {
        "base": asdict(base.identity),
        "suite": suite_record(suite, config.zoo.suite),
        "lora": asdict(config.lora),
        "zoo": training,
    }


def _resumable(folder: Path, header: dict[str, Any]) -> tuple[dict[str, Teacher], list[list[str]]]:
    """What an earlier build finished and is still sound, and the batches it planned; refuses a folder that was built otherwise."""
    if not (folder / "manifest.json").exists():
        return {}, []
    zoo = TeacherZoo.load(folder)
    damaged = zoo.damaged()
    rows = {t.path: t for t in zoo.teachers if t.path not in damaged}
    if not zoo.teachers:
        return {}, []
    for key, value in header.items():
        stored = zoo.manifest.get(key)
        if not _same(key, stored, value, zoo):
            raise InputError(
                f"{folder}: holds a zoo with another {key} ({stored}, asked for {value}); choose another checkpoint_folder or remove it"
            )
    return rows, zoo.manifest.get("batches", [])


def _same(key: str, stored: Any, value: Any, zoo: TeacherZoo) -> bool:
    """Whether a part of the manifest says the same for what teachers learn; where base and suite lie does not count."""
    if key == "suite":
        return _grown(zoo, value)
    if key == "base":
        return isinstance(stored, dict) and all(stored.get(name, value[name]) == value[name] for name in CONTENT)
    return _decisive(key, stored) == _decisive(key, value)


def _grown(zoo: TeacherZoo, suite: dict[str, Any]) -> bool:
    """Whether a suite still has every task of a zoo as it was; it may have more."""
    stored = zoo.manifest["suite"]
    if stored["hash"] == suite["hash"]:
        return True
    names = {path.split("/")[-2] for batch in zoo.manifest.get("batches", []) for path in batch} | {t.task for t in zoo.teachers}
    before, now = stored.get("tasks", {}), suite["tasks"]
    return all(name in before and before[name] == now.get(name) for name in names)


def _decisive(key: str, settings: Any) -> Any:
    """What of a part of the manifest decides a teacher; settings that a zoo was built before have their defaults."""
    if key != "zoo" or not isinstance(settings, dict):
        return settings
    return {k: v for k, v in {**asdict(ZooConfig()), **settings}.items() if f"zoo.{k}" not in UNSCIENTIFIC}


def _write_manifest(folder: Path, header: dict, suite: TaskSuite, zoo: ZooConfig, rows: dict[str, Teacher]) -> None:
    order = {_path(task, seed): i for i, (task, seed) in enumerate((task, seed) for seed in sorted(zoo.seeds) for task in suite)}
    teachers = sorted(rows.values(), key=lambda t: (order.get(t.path, len(order)), t.path))
    write_json(folder / "manifest.json", {**header, "teachers": [asdict(t) for t in teachers]})
