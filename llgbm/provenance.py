"""Put a run into an artifact store with all it was made from: suite -> zoo -> model -> evaluations -> report.

The run's record says by hashes what it was made from; only what has these hashes now becomes its input.
"""

import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, read_as
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.tracking.record import COMPLETED, RECORD_FILE, RUN_CONFIG, read_record
from llgbm.tracking.store import Artifact, ArtifactStore
from llgbm.training.checkpoints import KINDS
from llgbm.zoo.base import BaseIdentity
from llgbm.zoo.folder import TeacherZoo

REPORT = "report.html"


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


def record_run(store: ArtifactStore, run: str | Path, zoo_folder: str | Path | None = None) -> list[Artifact]:
    """Keep a run's suite, zoo, trained network, evaluations and report, each with its inputs; those kept already are not kept again.

    Args:
        store: Where to.
        run: Folder of a run that is done.
        zoo_folder: Its zoo; by default where the run found it.

    Raises:
        InputError: The run is not done, its zoo or suite is not the one it was trained on, or an evaluation was of another base. All
            of this is checked before anything is kept.
    """
    run = Path(run)
    place = run / RECORD_FILE
    values = read_record(run)
    record = read_as(_Metadata, values, f"{place}, which training writes")
    if record.state != COMPLETED:
        raise InputError(f"{run}: the run is {record.state}, and only one that is {COMPLETED} is recorded; train it to its end")
    trained = next((kind for kind in KINDS if (run / kind).is_dir()), None)
    if trained is None:
        raise InputError(f"{run}: has none of {', '.join(KINDS)}, so nothing was trained there; give the folder of a training run")
    zoo = _zoo_of(run, record, zoo_folder)
    name, suite = record.experiment_name, zoo.suite
    evaluations = sorted(run.glob("eval_*.json"))
    for path in evaluations:
        _check_evaluation(path, zoo)
    with tempfile.TemporaryDirectory() as folder:
        suite.save(folder)
        dataset = store.put(f"dataset-{suite.name}", folder, "dataset", metadata={"hash": suite.content_hash})
    teachers = store.put(f"zoo-{zoo.folder.resolve().name}", zoo.folder, "zoo", [dataset.ref], metadata={"hash": zoo.content_hash})
    made = {"trained": trained, "inputs": values["inputs"], "config": record.config}
    model = store.put(f"model-{name}", run / trained, "model", [teachers.ref], metadata=made)
    scores = [
        store.put(f"eval-{name}-on-{suite.name}{_suffix(path)}", path, "evaluation", [model.ref, teachers.ref, dataset.ref])
        for path in evaluations
    ]
    shown = [score.ref for score in scores] or [model.ref]
    report = [store.put(f"report-{name}", run / REPORT, "report", shown)] if (run / REPORT).is_file() else []
    return [dataset, teachers, model, *scores, *report]


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
