"""A training and an evaluation are read back from what each tracker stored; one that is not installed is refused."""

import csv
import io
import json
import os
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import accelerate.tracking
import matplotlib.image
import numpy as np
import pytest
from accelerate.tracking import get_available_trackers
from training_world import build_world, changed

from llgbm.cli import main
from llgbm.config import ExperimentConfig, TrainingConfig, content
from llgbm.errors import InputError
from llgbm.files import read_json, read_yaml, write_json
from llgbm.tracking.record import read_metrics
from llgbm.tracking.trackers import PROJECT, TRACKERS
from llgbm.training.behavior import train_generator

INSTALLED = {str(kind) for kind in get_available_trackers()}
ABSENT = sorted({*TRACKERS} - INSTALLED)
EACH = pytest.mark.parametrize(
    "tracker",
    [
        pytest.param(name, marks=pytest.mark.skipif(name in ABSENT, reason=f"{name} is not installed; the extra track has it"))
        for name in TRACKERS
    ],
)
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


@dataclass
class Stored:
    """What a tracker has of one run."""

    config: dict[str, Any] = field(default_factory=dict)
    """As text where the tracker keeps text."""
    figures: dict[str, dict[int, float]] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Cells as text; empty where there is none."""

    def log(self, step: int, name: str, value: float) -> None:
        self.figures.setdefault(name, {})[step] = value


def _cells(columns: list[str], rows: list[list[Any]]) -> list[dict[str, str]]:
    return [{name: "" if cell is None else str(cell) for name, cell in zip(columns, row, strict=True)} for row in rows]


def read_tensorboard(folder: Path) -> Stored:
    """From its event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place, stored = folder / "tracking" / "tensorboard", Stored()
    events = EventAccumulator(str(place), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            stored.log(event.step, name, event.value)
    for name in events.Tags()["images"]:
        stored.pictures[name] = matplotlib.image.imread(io.BytesIO(events.Images(name)[-1].encoded_image_string))
    for tag in events.Tags()["tensors"]:
        text = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        columns, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
        stored.tables[tag.removesuffix("/text_summary")] = _cells(columns, rows)
    [kept] = place.glob("*/hparams.yml")
    stored.config = dict(read_yaml(kept))
    return stored


def logged_records(data: bytes) -> Iterator[bytes]:
    """The records of W&B's run file: seven bytes of its own, then LevelDB's log format."""
    block, at, record = 32768, 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # too short for a record's head
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last of several parts
            yield record
            record = b""


def _nested(items: Any) -> dict[str, Any]:
    """A row of W&B's history: what a picture or table is described by comes as an item for each of its fields, with a path."""
    row: dict[str, Any] = {}
    for item in items:
        *path, name = item.nested_key or [item.key]
        place = row
        for part in path:
            place = place.setdefault(part, {})
        place[name] = json.loads(item.value_json)
    return row


def read_wandb(folder: Path) -> Stored:
    """From the files of its offline runs, all of which have the run's key."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # until then a run may not be written, and the next one is kept where this one is
    stored, key = Stored(), read_json(folder / "tracking" / "wandb.json")["run"]
    for path in sorted(Path(os.environ["WANDB_DIR"], "wandb").glob(f"offline-run-*-{key}/run-{key}.wandb")):
        files = path.parent / "files"
        for data in logged_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            stored.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            for name, value in _nested(record.history.item).items():
                kind = value.get("_type") if isinstance(value, dict) else None
                if kind == "table-file":
                    table = json.loads((files / value["path"]).read_text())
                    stored.tables[name] = _cells(table["columns"], table["data"])
                elif kind == "images/separated":
                    [picture] = value["filenames"]
                    stored.pictures[name] = matplotlib.image.imread(files / picture)
                elif not name.startswith("_"):
                    stored.log(record.history.step.num, name, value)
    return stored


def read_mlflow(folder: Path) -> Stored:
    """By its client, from sqlite."""
    from mlflow import MlflowClient

    client, key = MlflowClient(), read_json(folder / "tracking" / "mlflow.json")["run"]
    run, stored = client.get_run(key), Stored()
    assert (client.get_experiment(run.info.experiment_id).name, run.info.run_name) == (PROJECT, folder.name)
    stored.config = dict(run.data.params)
    for name in run.data.metrics:
        for metric in client.get_metric_history(key, name):
            stored.log(metric.step, name, metric.value)
    for item in client.list_artifacts(key, "pictures"):
        stored.pictures[Path(item.path).stem] = matplotlib.image.imread(client.download_artifacts(key, item.path))
    for item in client.list_artifacts(key, "tables"):
        text = Path(client.download_artifacts(key, item.path)).read_text()
        stored.tables[Path(item.path).stem] = list(csv.DictReader(io.StringIO(text)))
    return stored


def read_trackio(folder: Path) -> Stored:
    """From its sqlite file and the pictures beside it."""
    stored, key, place = Stored(), read_json(folder / "tracking" / "trackio.json")["run"], Path(os.environ["TRACKIO_DIR"])
    with closing(sqlite3.connect(place / f"{PROJECT}.db")) as database:
        [[config]] = database.execute("select config from configs where run_name = ?", [key])
        rows = database.execute("select step, metrics from metrics where run_name = ?", [key]).fetchall()
    stored.config = json.loads(config)
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            kind = value.get("_type") if isinstance(value, dict) else None
            if kind == "trackio.table":
                stored.tables[name] = _cells(list(value["_value"][0]), [list(row.values()) for row in value["_value"]])
            elif kind == "trackio.image":
                stored.pictures[name] = matplotlib.image.imread(place / "media" / value["file_path"])
            else:
                stored.log(step, name, value)
    return stored


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    return build_world(tmp_path_factory.mktemp("world"), n_unseen=1)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where trackers store things; they look for that when they are imported, so all tests have one. Nothing leaves the machine."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            patch.delenv(name, raising=False)
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TRACKIO_DIR"):
            patch.setenv(name, str(home))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        patch.chdir(home)
        yield home


def config_file(world: ExperimentConfig, tmp_path: Path) -> str:
    """The world's config, of a run in a folder, as a file there."""
    suite = str(Path(world.checkpoint_folder).parent / "suite")
    return str(changed(world, output_dir=str(tmp_path), zoo__suite=suite).save(tmp_path / "asked.yaml"))


def is_close(stored: Mapping[int, float], logged: Mapping[int, float]) -> bool:
    """To the float32 that tensorboard keeps."""
    return stored.keys() == logged.keys() and all(np.isclose(stored[step], logged[step], rtol=1e-6) for step in logged)


@EACH
def test_a_training_and_its_evaluation_are_one_entry_with_config_figures_pictures_and_tables(
    tracker: str, world: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", config_file(world, tmp_path), "--report_to", tracker, "--json"]) == 0
    json.loads(capsys.readouterr().out)
    methods = ["--methods", "base", "generated", "--scores", str(tmp_path / "scores")]
    asked = ["--run", str(run), "--zoo", world.checkpoint_folder, "--max_examples", "2", "--report_to", tracker, "--json"]
    assert main(["evaluate", *asked, *methods]) == 0
    scores = json.loads(capsys.readouterr().out)["splits"]

    stored = READERS[tracker](run)
    sent = content(changed(world, training__report_to=tracker))
    assert {name: str(stored.config[name]) for name in ("lora.rank", "training.learning_rate", "generator.encoder")} == {
        name: str(sent[name]) for name in ("lora.rank", "training.learning_rate", "generator.encoder")
    }
    assert {*sent} <= {*stored.config}
    logged = list(read_metrics(run / "metrics.jsonl"))
    assert len(logged) == 6
    for name in ("loss", "loss/kl", "validation/score", "adapters_per_second"):
        assert is_close(stored.figures[name], {row["step"]: row[name] for row in logged if name in row}), name
    assert {*stored.pictures} == {"training", "eval_main"}
    for picture in stored.pictures.values():
        assert min(picture.shape[:2]) > 100
        assert picture[..., :3].std() > 0.01, "a blank page"
    [row] = stored.tables["training"]
    assert row == {name: str(value) for name, value in read_json(run / "training.json").items()}
    table = {(row["split"], row["method"]): row for row in stored.tables["eval_main"]}
    assert {*table} == {(split, method) for split in scores for method in ("base", "generated")}
    for (split, method), row in table.items():
        assert {name: row[name] for name in scores[split][method]} == {
            name: "" if value is None else str(value) for name, value in scores[split][method].items()
        }


@EACH
def test_a_run_begun_anew_has_another_entry(tracker: str, world: ExperimentConfig, tmp_path: Path) -> None:
    config = changed(world, output_dir=str(tmp_path), training__report_to=tracker)
    train_generator(config)
    before = READERS[tracker](tmp_path / "run")
    key = read_json(tmp_path / "run" / "tracking" / f"{tracker}.json")["run"]
    train_generator(changed(config, training__total_steps=3), begin="overwrite")
    assert [*READERS[tracker](tmp_path / "run").figures["loss"]] == [1, 2, 3]
    assert [*before.figures["loss"]] == [1, 2, 3, 4, 5, 6]
    assert tracker == "tensorboard" or read_json(tmp_path / "run" / "tracking" / f"{tracker}.json")["run"] != key


def test_trackers_are_those_of_the_config() -> None:
    assert {*get_args(get_type_hints(TrainingConfig)["report_to"])} == {"none", *TRACKERS}


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracker that is not installed; where all are, accelerate is told that one is not."""
    if ABSENT:
        return ABSENT[0]
    known = accelerate.tracking._available_trackers
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [kind for kind in known if str(kind) != "wandb"])
    return "wandb"


@pytest.mark.parametrize("command", ["train", "quickstart", "evaluate", "train --dry_run", "quickstart --dry_run", "evaluate --dry_run"])
def test_an_absent_tracker_is_refused_before_anything_is_done(
    command: str, absent: str, world: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *dry = command.split()
    what = ["--run", "none"] if name == "evaluate" else [config_file(world, tmp_path)]
    before = sorted(tmp_path.rglob("*"))
    assert main([name, *what, "--zoo", world.checkpoint_folder, *dry, "--report_to", absent]) == 2
    said = capsys.readouterr()
    assert said.err == f"llgbm: report_to {absent}: it is not installed; pip install 'llgbm[track]', or set it to none\n"
    assert not said.out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif("tensorboard" in ABSENT, reason="tensorboard is not installed; the extra track has it")
def test_a_tracker_that_cannot_begin_is_named_and_so_is_a_damaged_entry(tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "tensorboard").write_text("in the way")
    with pytest.raises(
        InputError, match=r"^report_to tensorboard: it does not begin: .*tracking/tensorboard.*; mend that, or set it to none$"
    ):
        TRACKERS["tensorboard"](tmp_path)
    write_json(tmp_path / "tracking" / "tensorboard.json", {"run": 3})
    with pytest.raises(InputError, match=r"tensorboard\.json: names no run; delete it to begin another"):
        TRACKERS["tensorboard"](tmp_path)
