"""Put what a stage made into an artifact store with all it was made from.

suite -> zoo -> deltas, checkpoints -> model -> evaluations -> report

The run's record says by hashes what it was made from; only what has these hashes now becomes its input.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, read_as
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache, delta_key
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.tracking.context import DIFF_FILE
from llgbm.tracking.record import COMPLETED, RECORD_FILE, RUN_CONFIG, read_record
from llgbm.tracking.store import Artifact, ArtifactStore
from llgbm.training.checkpoints import KINDS, complete_steps, read_state, step_folder
from llgbm.zoo.base import BaseIdentity
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.manifest import is_zoo

REPORT, CHECKPOINTS, PREDICTOR = "report.html", "checkpoints", "predictor"
VOLATILE = (RECORD_FILE, DIFF_FILE, ".lock")
"""Files of zoos and caches that say when and where they were made, not what."""


@dataclass(frozen=True, config=RECORD)
class _Inputs:
    """The hashes of a run's record that its lineage needs."""

    zoo: str


@dataclass(frozen=True, config=RECORD)
class _Metadata:
    """What a run's `metadata.json` holds at least."""

    experiment_name: str
    state: str
    inputs: _Inputs
    config: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, config=RECORD)
class _Evaluation:
    base: dict[str, Any]


def record_zoo(store: ArtifactStore, folder: str | Path) -> list[Artifact]:
    """Keep a zoo, made from its suite. InputError when a teacher or the suite is not as the zoo recorded it."""
    zoo = TeacherZoo.load(folder)
    zoo.check(zoo.teachers)
    return _put_zoo(store, zoo)


def record_deltas(store: ArtifactStore, cache: str | Path, adapters: str | Path) -> list[Artifact]:
    """Keep a cache of deltas, made from a zoo or a folder of adapters, which are kept too.

    Raises:
        InputError: The cache lacks the delta of one of the zoo's teachers as it is now, or another fault of `record_zoo`.
    """
    if not is_zoo(adapters):
        source = store.put(f"adapters-{_name(adapters)}", adapters, "adapters")
        return [source, store.put(f"deltas-{_name(adapters)}", cache, "deltas", [source.ref], volatile=VOLATILE)]
    zoo = TeacherZoo.load(adapters)
    zoo.check(zoo.teachers)
    missing = _without_delta(zoo, cache)
    if missing:
        raise InputError(
            f"{cache}: has no delta of {missing[0]}, nor of {len(missing) - 1} others of zoo {zoo.folder} as it is now; "
            f"compute them with 'llgbm compute-deltas --zoo {zoo.folder} --deltas {cache}'"
        )
    made = _put_zoo(store, zoo)
    return [*made, _put_deltas(store, zoo, cache, made[-1])]


def record_run(store: ArtifactStore, run: str | Path, zoo_folder: str | Path | None = None) -> list[Artifact]:
    """Keep a run's suite, zoo, deltas, checkpoints, trained network, evaluations and report, each with its inputs.

    What is kept already is not kept again. Deltas belong to it where the run's cache holds all of the zoo's. Checkpoints have the aliases
    `checkpoint_step_<n>` and `best`.

    Args:
        store: Where to.
        run: Folder of a run that is done.
        zoo_folder: Its zoo; by default where the run found it.

    Raises:
        InputError: The run is not done, its zoo or suite is not the one it was trained on, or an evaluation was of another base. All
            of this is checked before anything is kept.
    """
    run = Path(run)
    values = read_record(run)
    record = read_as(_Metadata, values, f"{run / RECORD_FILE}, which training writes")
    if record.state != COMPLETED:
        raise InputError(f"{run}: the run is {record.state}, and only one that is {COMPLETED} is recorded; train it to its end")
    trained = next((kind for kind in KINDS if (run / kind).is_dir()), None)
    if trained is None:
        raise InputError(f"{run}: has none of {', '.join(KINDS)}, so nothing was trained there; give the folder of a training run")
    zoo = _zoo_of(run, record, zoo_folder)
    evaluations = sorted(run.glob("eval_*.json"))
    for path in evaluations:
        _check_evaluation(path, zoo)
    cache = Path(ExperimentConfig.load(run / RUN_CONFIG).delta_cache_dir)
    name, (dataset, teachers) = record.experiment_name, _put_zoo(store, zoo)
    deltas = [] if _without_delta(zoo, cache) else [_put_deltas(store, zoo, cache, teachers)]
    steps = _put_checkpoints(store, name, run, [teachers])
    made = {"trained": trained, "inputs": values["inputs"], "config": record.config}
    sources = [teachers, *(deltas if trained == PREDICTOR else []), *(step for best, step in steps if best)]
    model = store.put(f"model-{name}", run / trained, "model", _refs(sources), metadata=made)
    scores = [_put_evaluation(store, name, path, [model, teachers, dataset]) for path in evaluations]
    shown = [*(scores or [model]), *deltas]
    report = [store.put(f"report-{name}", run / REPORT, "report", _refs(shown))] if (run / REPORT).is_file() else []
    return [dataset, teachers, *deltas, *(step for _, step in steps), model, *scores, *report]


def record_evaluation(store: ArtifactStore, path: str | Path, run: str | Path | None, zoo_folder: str | Path) -> list[Artifact]:
    """Keep an evaluation's file, made from a run (None for one of methods that need none) and a zoo, which are kept too.

    Raises:
        InputError: It is of another base than the zoo's, or a fault of `record_run` or `record_zoo`.
    """
    path, zoo = Path(path), TeacherZoo.load(zoo_folder)
    _check_evaluation(path, zoo)
    made = record_zoo(store, zoo_folder) if run is None else record_run(store, run, zoo_folder)
    if run is not None and path.resolve().parent == Path(run).resolve():
        return made
    of_kind = {artifact.kind: artifact for artifact in made}
    name = of_kind["model"].name.removeprefix("model-") if "model" in of_kind else "controls"
    return [*made, _put_evaluation(store, name, path, [of_kind[kind] for kind in ("model", "zoo", "dataset") if kind in of_kind])]


def _put_zoo(store: ArtifactStore, zoo: TeacherZoo) -> list[Artifact]:
    """A zoo whose files were seen to be as it records them, and its suite, or where its adapters are from if it has none."""
    name, made = f"zoo-{_name(zoo.folder)}", {"hash": zoo.content_hash}
    if zoo.imported is not None:
        return [store.put(name, zoo.folder, "zoo", metadata={**made, "imported": zoo.manifest["imported"]}, volatile=VOLATILE)]
    suite = zoo.suite
    dataset = _newest(store, f"dataset-{suite.name}", suite.content_hash)
    if dataset is None:
        with tempfile.TemporaryDirectory() as folder:
            suite.save(folder)
            dataset = store.put(f"dataset-{suite.name}", folder, "dataset", metadata={"hash": suite.content_hash})
    teachers = _newest(store, name, zoo.content_hash, (dataset.ref,))
    return [dataset, teachers or store.put(name, zoo.folder, "zoo", [dataset.ref], metadata=made, volatile=VOLATILE)]


def _newest(store: ArtifactStore, name: str, content_hash: str, inputs: tuple[str, ...] = ()) -> Artifact | None:
    """The newest version of a name if it has this content, so that its files need not be read again."""
    known = store.versions(name)[-1:]
    return next((own for own in known if own.metadata.get("hash") == content_hash and own.inputs == inputs), None)


def _put_deltas(store: ArtifactStore, zoo: TeacherZoo, cache: str | Path, source: Artifact) -> Artifact:
    return store.put(f"deltas-{_name(zoo.folder)}", cache, "deltas", [source.ref], volatile=VOLATILE)


def _put_checkpoints(store: ArtifactStore, name: str, run: Path, sources: Sequence[Artifact]) -> list[tuple[bool, Artifact]]:
    """The whole checkpoints that a run kept, oldest first, each with whether it is the best."""
    folders = [step_folder(run / CHECKPOINTS, step) for step in complete_steps(run / CHECKPOINTS)]
    best = read_state(folders[-1]).get("best_step") if folders else None
    put = []
    for folder in folders:
        is_best = folder == step_folder(run / CHECKPOINTS, best or 0)
        aliases = [f"checkpoint_{folder.name}", *(["best"] if is_best else [])]
        put.append((is_best, store.put(f"checkpoint-{name}", folder, "checkpoint", _refs(sources), aliases, any_version=True)))
    return put


def _put_evaluation(store: ArtifactStore, name: str, path: Path, sources: Sequence[Artifact]) -> Artifact:
    suite = next(artifact.name for artifact in sources if artifact.kind == "dataset").removeprefix("dataset-")
    return store.put(f"eval-{name}-on-{suite}{_suffix(path)}", path, "evaluation", _refs(sources))


def _without_delta(zoo: TeacherZoo, cache: str | Path) -> list[str]:
    """The teachers whose delta a cache, which need not exist, has not got."""
    manifest = DeltaCache(cache).manifest
    held = {record["key"] for record in manifest["adapters"].values()}
    return [teacher.path for teacher in zoo.teachers if delta_key(manifest["config"], teacher.hash) not in held]


def _refs(artifacts: Sequence[Artifact]) -> list[str]:
    return [artifact.ref for artifact in artifacts]


def _name(folder: str | Path) -> str:
    return Path(folder).resolve().name


def _zoo_of(run: Path, record: _Metadata, folder: str | Path | None) -> TeacherZoo:
    """The zoo a run was trained on, its files and suite as they were."""
    zoo = TeacherZoo.load(folder or ExperimentConfig.load(run / RUN_CONFIG).checkpoint_folder)
    if zoo.content_hash != record.inputs.zoo:
        raise InputError(
            f"{run} was trained on a zoo of hash {record.inputs.zoo[:8]}, but zoo {zoo.folder} has {zoo.content_hash[:8]}; "
            "give the zoo it was trained on with --zoo"
        )
    zoo.check(zoo.teachers)
    return zoo


def _check_evaluation(path: Path, zoo: TeacherZoo) -> None:
    base = BaseIdentity.read(read_as(_Evaluation, read_json(path), str(path)).base, path)
    if base.source_hash != zoo.base.source_hash:
        raise InputError(
            f"{path}: is of a base with hash {base.source_hash[:8]}, but zoo {zoo.folder} is of one with {zoo.base.source_hash[:8]}; "
            "evaluate again"
        )


def _suffix(path: Path) -> str:
    """Nothing for `eval_main.json`, the evaluation of an experiment; others follow with their name."""
    name = path.stem.removeprefix("eval_")
    return "" if name == "main" else f"-{name}"
