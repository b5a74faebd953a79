"""Controls of what makes a run repeat: a checkpoint without all that its run needs to go on as it would have, is never gone on from."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_world import build_world, changed

from llgbm.config import ExperimentConfig
from llgbm.files import hash_file, hash_tensors, read_json, write_json
from llgbm.training.behavior import train_generator
from llgbm.training.checkpoints import MARKER, OPTIMIZER_FILE, STATE_FILE, complete_steps

WEIGHTS = "model.safetensors"


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """A run that stopped after its fourth step, and another that did not stop."""
    config = changed(build_world(tmp_path_factory.mktemp("world"), n_tasks=4), training__save_interval=1, training__total_steps=6)
    before = torch.are_deterministic_algorithms_enabled()
    train_generator(changed(config, experiment_name="whole"))

    def stop(step: int, total: int, **_: object) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        train_generator(config, progress=stop)
    torch.use_deterministic_algorithms(before)
    return config


@pytest.fixture
def stopped(world: ExperimentConfig, tmp_path: Path) -> ExperimentConfig:
    shutil.copytree(world.output_dir, tmp_path / "outputs")
    return changed(world, output_dir=str(tmp_path / "outputs"))


def outcome(config: ExperimentConfig) -> list[str]:
    """Of the result, and of the last step."""
    return [hash_tensors(load_file(config.run_folder / place / WEIGHTS)) for place in ("generator", "checkpoints/step_6")]


def newest(config: ExperimentConfig) -> Path:
    checkpoints = config.run_folder / "checkpoints"
    return checkpoints / f"step_{complete_steps(checkpoints)[-1]}"


def go_on(config: ExperimentConfig) -> list[str]:
    before = torch.are_deterministic_algorithms_enabled()
    train_generator(config, begin="go_on")
    torch.use_deterministic_algorithms(before)
    return outcome(config)


def flip(file: Path) -> None:
    """Flip the lowest bit of the first number."""
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1).view(torch.uint8)[0] ^= 1
    save_file(tensors, file)


def test_what_is_whole_is_gone_on_from(stopped: ExperimentConfig) -> None:
    assert newest(stopped).name == "step_4"
    assert go_on(stopped) == outcome(changed(stopped, experiment_name="whole"))


@pytest.mark.parametrize("gone", [STATE_FILE, OPTIMIZER_FILE, WEIGHTS, MARKER])
def test_a_checkpoint_that_lacks_a_part_is_refused(stopped: ExperimentConfig, gone: str) -> None:
    damaged = newest(stopped)
    (damaged / gone).unlink()
    assert newest(stopped) != damaged
    assert go_on(stopped) == outcome(changed(stopped, experiment_name="whole"))


@pytest.mark.parametrize("file", [OPTIMIZER_FILE, WEIGHTS])
def test_a_checkpoint_with_one_flipped_bit_is_refused(stopped: ExperimentConfig, file: str) -> None:
    damaged = newest(stopped)
    flip(damaged / file)
    assert newest(stopped) != damaged
    assert go_on(stopped) == outcome(changed(stopped, experiment_name="whole"))


def test_where_random_numbers_stand_decides_what_comes_out(stopped: ExperimentConfig) -> None:
    """The control of the controls: a checkpoint made to look whole, whose step draws other examples, ends with other bits."""
    damaged = newest(stopped)
    write_json(damaged / STATE_FILE, {**read_json(damaged / STATE_FILE), "step": 3})
    write_json(damaged / MARKER, {**read_json(damaged / MARKER), STATE_FILE: hash_file(damaged / STATE_FILE)})
    assert go_on(stopped) != outcome(changed(stopped, experiment_name="whole"))
