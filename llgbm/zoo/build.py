"""Building a zoo: every missing teacher of a suite, batch by batch, to the same bits however often it is interrupted.

The manifest remembers which teachers train together. Tasks and seeds that are new to a zoo form batches of their own, so what
is there stays as it is; an adapter that was lost is trained again among its old batch mates, which gives its old bits.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llgbm.config import UNSCIENTIFIC, ExperimentConfig, ZooConfig, content
from llgbm.errors import InputError
from llgbm.fanout.crew import Crew, Engine, Job
from llgbm.fanout.local import Local
from llgbm.files import absolute, write_json
from llgbm.lora.peft_io import adapter_hash, write_adapter
from llgbm.metrics import EXACT_MATCH
from llgbm.names import path_part
from llgbm.percent import percent
from llgbm.progress import ProgressCallback
from llgbm.tracking.lock import hold
from llgbm.tracking.record import ExperimentLogger, refuse_run
from llgbm.zoo.base import CONTENT, BaseIdentity
from llgbm.zoo.folder import Teacher, TeacherZoo
from llgbm.zoo.named import from_anywhere, loadable_name
from llgbm.zoo.suite import Task, TaskSuite
from llgbm.zoo.suites import load_suite, suite_record
from llgbm.zoo.teaching import Classroom, Taught, Teaching

WEAK, NEAR = 0.5, 0.05
"""A teacher below this score is compared with the base, and warned of where it is not so much better."""
logger = logging.getLogger(__name__)


def build_zoo(config: ExperimentConfig, progress: ProgressCallback | None = None, engine: Engine | None = None) -> TeacherZoo:
    """Train every missing teacher of the configured suite and seeds, batch by batch; teachers that are there are not touched.

    A batch is written whole before the manifest names it; an interrupted build starts again at the batches in hand and
    ends with the same adapters. Adapters that are lost, or not as they were trained, are trained again to the same bits.

    Args:
        config: Which base, suite, adapters and folder.
        progress: Called with the teachers that are there and all.
        engine: Where batches are trained; in this process by default. Adapters and manifest are written here whatever it is.

    Raises:
        InputError: The base is not fit for the suite (see `zoo.check`); or the folder holds a zoo of another base or training
            setting, of a suite whose tasks have changed, or a run; or another process builds there.
    """
    refuse_run(config.checkpoint_folder, "a zoo")
    with hold(config.checkpoint_folder):
        suite = load_suite(config.zoo.suite)
        there = replace(config, model=replace(config.model, name=from_anywhere(config.model.name)))
        with (engine or Local()).crew(Job(Teaching, (there, suite))) as crew:
            return _build_alone(config, suite, crew, progress)


def _build_alone(config: ExperimentConfig, suite: TaskSuite, crew: Crew, progress: ProgressCallback | None) -> TeacherZoo:
    classroom: Classroom = crew.ask("survey")
    folder = Path(absolute(config.checkpoint_folder))
    header = _header(config, classroom.base, suite)
    rows, planned = _resumable(folder, header)
    batches = list(plan_batches(suite, replace(config.zoo, adapters_per_batch=classroom.together), planned))
    header["batches"] = [[_path(task, seed) for task, seed in batch] for batch in batches]
    wanted = {_path(task, seed) for task in suite for seed in config.zoo.seeds}
    if wanted - rows.keys():
        for finding in crew.ask("require_fit"):
            logger.info("%s: %s", finding.check, finding.found)
    before = set(rows)
    with ExperimentLogger(folder.parent, folder.name, config.tracking.level) as record:
        record.log_config(content(config))
        record.log_inputs(base=classroom.base.hash, suite=suite.content_hash)
        record.log_details(points={"before": classroom.points})
        _write_manifest(folder, header, suite, config.zoo, rows)
        work = {_name(i, batches): (batch, missing) for i, batch in enumerate(batches) if (missing := _missing(batch, wanted, rows))}

        def show(inside: int = 0, **figures: Any) -> None:
            if progress:
                progress(len(wanted & rows.keys()) + inside, len(wanted), **crew.figures(), **figures)

        for name, taught in crew.map("train", work.items(), show):
            rows |= {teacher.path: teacher for teacher in _write_teachers(folder, *work[name], taught, classroom)}
            _write_manifest(folder, header, suite, config.zoo, rows)
            show()
        if not work:
            show()
        record.log_details(points={"before": classroom.points, "after": crew.ask("points_again")}, **crew.record())
    _warn_of_weak([row for path, row in rows.items() if path not in before], suite, crew)
    return TeacherZoo.load(folder)


def _missing(batch: Sequence[tuple[Task, int]], wanted: set[str], rows: Mapping[str, Teacher]) -> list[int]:
    """Which places of a batch have no sound teacher and should."""
    paths = [_path(task, seed) for task, seed in batch]
    return [k for k, path in enumerate(paths) if path in wanted and path not in rows]


def _name(i: int, batches: Sequence[Sequence[tuple[Task, int]]]) -> str:
    return f"batch {i + 1} of {len(batches)} (from {_path(*batches[i][0])} on)"


def _warn_of_weak(trained: Sequence[Teacher], suite: TaskSuite, crew: Crew) -> None:
    """Say which teachers learned next to nothing, and what may help."""
    weak = [(t.value, t.task) for t in trained if t.value is not None and t.value < WEAK]
    base = crew.ask("alone", [suite[task] for _, task in weak]) if weak else []
    near = [(value, alone, task) for (value, task), alone in zip(weak, base, strict=True) if value - alone < NEAR]
    if near:
        value, alone, task = min(near)
        logger.warning(
            "%d of %d teachers answer no better than the base alone (%s: %s against %s); raise zoo.steps, zoo.batch_size or lora.rank, "
            "try another zoo.learning_rate or frame, or begin with the preset real_base",
            *(len(near), len(trained), task, percent(value), percent(alone)),
        )


def _write_teachers(
    folder: Path, batch: Sequence[tuple[Task, int]], places: Sequence[int], taught: Taught, classroom: Classroom
) -> Iterator[Teacher]:
    """Write the trained teachers of a batch, which have these places in it."""
    base = classroom.base
    for i, place in enumerate(places):
        task, seed = batch[place]
        path = folder / _path(task, seed)
        write_adapter(
            path,
            taught.factors,
            i,
            base_name=loadable_name(base.name),
            fan_in_fan_out=classroom.fan_in_fan_out,
            extra_config={"revision": base.revision},
        )
        write_json(path / "prompts.json", list(task.prompts))
        found = taught.scores[i]
        other = None if task.metric == EXACT_MATCH else found.mean_mark
        said = (taught.steps[i], found.exact_match, adapter_hash(path), other)
        yield Teacher(_path(task, seed), task.name, task.domain, task.split, seed, *said)


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


def _header(config: ExperimentConfig, base: BaseIdentity, suite: TaskSuite) -> dict[str, Any]:
    training = {k: v for k, v in asdict(config.zoo).items() if k not in ("suite", "seeds")}
    return {
        "base": asdict(base),
        "suite": suite_record(suite, config.zoo.suite),
        "lora": asdict(config.lora),
        "zoo": training,
    }


def _resumable(folder: Path, header: dict[str, Any]) -> tuple[dict[str, Teacher], list[list[str]]]:
    """What an earlier build finished and is still sound, and the batches it planned; refuses a folder that was built otherwise."""
    if not (folder / "manifest.json").exists():
        return {}, []
    zoo = TeacherZoo.load(folder)
    if zoo.imported is not None:
        raise InputError(f"{folder}: holds imported adapters, and none can be trained among them; choose another checkpoint_folder")
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
    write_json(folder / "manifest.json", {**header, "teachers": [t.row() for t in teachers]})
