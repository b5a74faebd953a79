"""`--dry_run`: what a command would do, where, and how long that takes as far as it is recorded."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.cli.output import print_json, print_table
from llgbm.tracking.trackers import check_tracker

if TYPE_CHECKING:
    from llgbm.config import ExperimentConfig
    from llgbm.training.standing import Begin

UNKNOWN = "unknown, nothing like it is recorded there"


def show_plan(rows: list[dict[str, Any]], as_json: bool = False) -> int:
    """Print what would be done; the exit status."""
    if as_json:
        print_json(rows)
    else:
        print_table(rows, title="would be done (this was a dry run):")
    return 0


def plan_zoo(config: "ExperimentConfig") -> dict[str, Any]:
    """Teachers that are missing."""
    from llgbm.files import read_json
    from llgbm.zoo.manifest import is_zoo, read_manifest
    from llgbm.zoo.suites import load_suite

    folder = Path(config.checkpoint_folder)
    names = {task.name for task in load_suite(config.zoo.suite)}
    wanted = {(name, seed) for name in names for seed in config.zoo.seeds}
    there = {(t.task, t.seed) for t in read_manifest(folder).teachers} if is_zoo(folder) else set()
    missing, record = len(wanted - there), folder / "metadata.json"
    long, seconds = UNKNOWN, read_json(record).get("seconds") if there and record.is_file() else None
    if not missing:
        long = "nothing, all are there"
    elif seconds and read_json(record)["state"] == "COMPLETED":
        long = f"about {_time(seconds * missing / len(there))}, if the build recorded there trained all of them"
    return {"what": f"train {missing} of {len(wanted)} teachers", "where": str(folder), "how_long": long}


def plan_training(config: "ExperimentConfig", begin: "Begin", kind: str = "generator") -> dict[str, Any]:
    """Steps that are missing. InputError where training itself would refuse."""
    from llgbm.training.checkpoints import check_origin, read_state, step_folder
    from llgbm.training.estimate import recorded_rate
    from llgbm.training.standing import Standing, check_begin

    check_tracker(config.training.report_to)
    check_begin(config.run_folder, begin)
    whole = Standing.of(config.run_folder).whole
    first = whole[-1] if whole and begin in ("resume", "go_on") else 0
    if first:
        checkpoint = step_folder(config.run_folder / "checkpoints", first)
        check_origin(checkpoint, read_state(checkpoint), {"config_hash": config.get_hash()})
    steps, rate = config.training.total_steps - first, recorded_rate(config)
    long = UNKNOWN if rate is None else f"about {_time(steps * rate.seconds_per_step)}, by the steps of {rate.run}"
    what = f"train a {kind}, {steps} steps" + (f" from step {first} on" if first else "")
    return {"what": what, "where": str(config.run_folder), "how_long": long if steps else "nothing, it is done"}


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))
