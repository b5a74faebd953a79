"""Checkpoints that are whole or ignored: every tensor as safetensors, a marker with the files' hashes written last."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save
from torch import Tensor

from llgbm.checking import RECORD, Integer, read_as
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.files import hash_file, read_json, write_bytes, write_json
from llgbm.models.reader import CONFIG_FILE, WEIGHTS_FILE, ConditionReader, load_weights
from llgbm.optimizer_state import optimizer_tensors, restore_optimizer
from llgbm.tracking.record import HEARTBEAT_FILE, METRICS_FILE
from llgbm.tracking.trackers import TRACKING
from llgbm.training.processes import tensors_from_first
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.suites import load_suite

MARKER = "COMPLETE.json"
KINDS = ("generator", "predictor", "soft_prompt")
"""What a run trains; its result lies in the run's folder under this name."""
OPTIMIZER_FILE, STATE_FILE = "optimizer.safetensors", "state.json"


def save_checkpoint(folder: Path, network: ConditionReader, optimizer: torch.optim.Optimizer, state: Mapping) -> None:
    """Write network, optimizer and loop state; a crash at any moment leaves no marker, so nothing half-written is resumed."""
    (folder / MARKER).unlink(missing_ok=True)
    network.save_pretrained(folder)
    write_bytes(folder / OPTIMIZER_FILE, save(optimizer_tensors(optimizer)))
    write_json(folder / STATE_FILE, dict(state))
    files = (WEIGHTS_FILE, CONFIG_FILE, OPTIMIZER_FILE, STATE_FILE)
    write_json(folder / MARKER, {name: hash_file(folder / name) for name in files})


def load_checkpoint(folder: Path, network: ConditionReader, optimizer: torch.optim.Optimizer) -> None:
    """Restore network and optimizer in place, in every process from what the first one reads.

    Raises:
        InputError: The checkpoint belongs to a network of another layout.
    """
    device = next(network.parameters()).device
    load_weights(network, tensors_from_first(lambda: load_file(folder / WEIGHTS_FILE), device), folder / WEIGHTS_FILE)
    restore_optimizer(optimizer, tensors_from_first(lambda: load_file(folder / OPTIMIZER_FILE), device))


def load_best(folder: Path, network: ConditionReader) -> None:
    """Put a checkpoint's weights into the network, in every process from what the first one reads.

    Raises:
        InputError: The checkpoint is not whole.
    """

    def read() -> dict[str, Tensor]:
        if not is_complete(folder):
            raise InputError(
                f"{folder}: the best checkpoint is not whole any more; train again with --overwrite, or under another experiment_name"
            )
        return load_file(folder / WEIGHTS_FILE)

    load_weights(network, tensors_from_first(read, next(network.parameters()).device), folder / WEIGHTS_FILE)


@dataclass(frozen=True, config=RECORD)
class StateRecord:
    """What every `state.json` holds, whatever is trained."""

    step: Annotated[Integer, Field(ge=0)]
    config_hash: str
    zoo_hash: str


def read_state(folder: Path) -> dict[str, Any]:
    """The loop state of a checkpoint; InputError when its file is another's."""
    state = read_json(folder / STATE_FILE)
    read_as(StateRecord, state, f"{folder / STATE_FILE}: not the state of a checkpoint, remove its folder")
    return state


def origin(config: ExperimentConfig, zoo: TeacherZoo) -> dict[str, str]:
    """The hashes of what a run is made of, as its checkpoints record them."""
    further = config.training.further_tasks
    asked = {"further_tasks_hash": load_suite(further).content_hash} if further else {}
    return {"config_hash": config.get_hash(), "zoo_hash": zoo.content_hash, **asked}


def check_origin(folder: Path, stored: Mapping, now: Mapping[str, str]) -> None:
    """InputError when a checkpoint's state holds other hashes (`config_hash`, `zoo_hash` ...) than now."""
    for key, digest in now.items():
        if stored[key] != digest:
            raise InputError(
                f"{folder}: was trained with another {key.removesuffix('_hash')} ({stored[key][:8]}, now {digest[:8]}); "
                "resume with the same one, train under another experiment_name, or begin anew with --overwrite"
            )


def is_origin(checkpoints: Path, now: Mapping[str, str]) -> bool:
    """Whether there is a complete checkpoint and the newest one is of a run with these hashes and no others."""
    steps = complete_steps(checkpoints)
    stored = read_state(step_folder(checkpoints, steps[-1])) if steps else {}
    return {key: value for key, value in stored.items() if key.endswith("_hash")} == dict(now)


def refuse_other_kind(folder: Path, kind: str) -> None:
    """InputError when the run folder holds the result of another kind of training, which would be mixed up with this one's."""
    other = next((name for name in KINDS if name != kind and (folder / name / CONFIG_FILE).exists()), None)
    if other is not None:
        raise InputError(f"{folder}: holds a {other}; train the {kind} under another experiment_name")


def clear_run(folder: Path, result: str) -> None:
    """Remove what an earlier run of this name left, its evaluations too, so that none of it is taken for this one's."""
    for name in ("checkpoints", result, "example_adapter", TRACKING):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (
        *(folder / name for name in (METRICS_FILE, HEARTBEAT_FILE, "training.json", "example_answers.json")),
        *folder.glob("eval_*.json"),
    ):
        path.unlink(missing_ok=True)


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return checkpoints / f"step_{step}"


def complete_steps(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints whose marker is there and whose files have the hashes it lists, oldest first."""
    return [step for step in steps_of(checkpoints) if is_complete(step_folder(checkpoints, step))]


def steps_of(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that were begun, whole or not, oldest first."""
    found = (re.fullmatch(r"step_(\d+)", path.name) for path in checkpoints.glob("step_*"))
    return sorted(int(match[1]) for match in found if match)


def is_complete(folder: Path) -> bool:
    """Whether every file is there as it was written."""
    try:
        hashes = read_as(dict[str, str], read_json(folder / MARKER), str(folder / MARKER))
        return hashes.keys() >= {WEIGHTS_FILE, CONFIG_FILE, OPTIMIZER_FILE, STATE_FILE} and all(
            hash_file(folder / name) == digest for name, digest in hashes.items()
        )
    except (InputError, OSError):
        return False


def prune_checkpoints(checkpoints: Path, keep: set[int]) -> None:
    """Remove checkpoints of other steps, marker first."""
    for step in steps_of(checkpoints):
        if step not in keep:
            (step_folder(checkpoints, step) / MARKER).unlink(missing_ok=True)
            shutil.rmtree(step_folder(checkpoints, step))
