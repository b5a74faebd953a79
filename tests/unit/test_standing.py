"""Finished work is never touched unasked, a run that was begun is not lost unasked, and one process at a time works in a run's folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_world import build_world, changed

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.files import hash_file
from llgbm.tracking.lock import LOCK_FILE, hold
from llgbm.training.behavior import train_generator
from llgbm.training.checkpoints import MARKER
from llgbm.training.delta_only import train_delta_only
from llgbm.training.loop import TrainingResult

BEHAVIOR = {"objective__product": 0.0, "objective__kl": 1.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return changed(build_world(folder), delta_cache_dir=str(folder / "deltas"))


@pytest.fixture
def config(world, tmp_path):
    return changed(world, output_dir=str(tmp_path), training__save_interval=1, training__eval_interval=3)


class Killed(Exception):
    pass


def stop_after(steps: int):
    def progress(done, total, **figures):
        if done == steps:
            raise Killed

    return progress


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def interrupted(config, steps: int) -> Path:
    with pytest.raises(Killed):
        train_generator(config, progress=stop_after(steps))
    return config.run_folder


def damage(folder: Path, step: int) -> None:
    (folder / "checkpoints" / f"step_{step}" / "optimizer.safetensors").write_bytes(b"flipped")


def refusal(config, begin: str) -> str:
    """What a refusal says; nothing of the folder has changed."""
    before = content(config.run_folder) if config.run_folder.exists() else None
    with pytest.raises(InputError) as caught:
        train_generator(config, begin=begin)
    assert (content(config.run_folder) if config.run_folder.exists() else None) == before
    return str(caught.value)


@pytest.mark.parametrize("variant", ["b1", "b2"])
def test_a_finished_run_is_touched_with_overwrite_alone(config, variant):
    config = changed(config, **BEHAVIOR)
    first: TrainingResult = train_delta_only(config, variant)
    (first.folder / "eval_main.json").write_text("{}")
    before, other = content(first.folder), changed(config, training__total_steps=2)
    kind = {"b1": "generator", "b2": "predictor"}[variant]
    with pytest.raises(InputError, match=rf"run .*run is finished \(a {kind} of 6 steps\); give another --experiment_name, or --overwrite"):
        train_delta_only(other, variant)
    with pytest.raises(InputError, match=r"is finished .*, there is nothing to resume; give another --experiment_name"):
        train_delta_only(config, variant, begin="resume")
    shutil.copytree(first.folder / "checkpoints", config.run_folder.parent / "kept")
    shutil.rmtree(first.folder / "checkpoints")
    with pytest.raises(InputError, match="is finished"):  # a study's cell without checkpoints is no less finished
        train_delta_only(config, variant, begin="go_on")
    (config.run_folder.parent / "kept").rename(first.folder / "checkpoints")
    assert content(first.folder) == before
    assert train_delta_only(other, variant, begin="overwrite").steps == 2
    assert not (first.folder / "eval_main.json").exists()


def test_a_run_that_was_begun_is_gone_on_with_or_overwritten(config):
    folder = interrupted(config, 4)
    assert refusal(config, "new") == (
        f"run {folder} stands at step 4; give --resume to go on from there; or give --overwrite to begin anew, or another --experiment_name"
    )
    assert train_generator(config, begin="resume").steps == 6


def test_nothing_to_resume(config):
    assert "was never begun, there is nothing to resume; leave out --resume to begin it" in refusal(config, "resume")
    assert not config.run_folder.exists()
    late = changed(config, training__save_interval=100, training__eval_interval=100)
    folder = interrupted(late, 2)
    assert "has no checkpoint yet, there is nothing to resume; leave out --resume" in refusal(late, "resume")
    assert train_generator(late).folder == folder  # nothing but a log was there


def test_damaged_checkpoints_are_not_resumed_from_unseen(config):
    folder = interrupted(config, 5)  # step 3 is the best one
    damage(folder, 5)
    message = refusal(config, "resume")
    assert f"run {folder}: its checkpoint of step 5 is damaged; what is left is whole at step 3: remove {folder}" in message
    assert "checkpoints/step_5 to go on from there; or give --overwrite" in message
    assert "stands at step 3 and its checkpoint of step 5 is damaged; give --resume" in refusal(config, "new")
    damage(folder, 3)
    for begin in ("new", "resume", "go_on"):
        assert "was not finished and its checkpoints of step 3, 5 are damaged, none is whole; give --overwrite" in refusal(config, begin)
    assert train_generator(config, begin="overwrite").steps == 6


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_that_could_not_end_with_its_best_checkpoint_does_not_go_on(config, gone):
    folder = interrupted(config, 5)
    best = json.loads((folder / "checkpoints" / "step_5" / "state.json").read_text())["best_step"]
    assert best == 3
    shutil.rmtree(folder / "checkpoints" / "step_3") if gone else damage(folder, 3)
    for begin in ("resume", "go_on"):
        assert "stands at step 5, but its best checkpoint so far, that of step 3, is damaged or gone" in refusal(config, begin)


def test_a_checkpoint_that_was_being_written_is_no_damage(config):
    folder = interrupted(config, 5)
    (folder / "checkpoints" / "step_5" / MARKER).unlink()
    assert train_generator(config, begin="resume").steps == 6


def test_studies_go_on_where_their_cells_stand(config):
    folder = interrupted(config, 5)
    damage(folder, 5)
    result = train_generator(config, begin="go_on")
    before = content(folder)
    assert train_generator(config, begin="go_on").best_step == result.best_step
    assert content(folder) == before


def test_a_run_is_refused_while_another_process_works_in_its_folder(config):
    with hold(config.run_folder), pytest.raises(InputError, match=r"process \d+ has worked there since"):
        train_generator(config, begin="overwrite")


def test_the_commands_flags(config, tmp_path, capsys):
    folder = interrupted(config, 4)
    config.save(tmp_path / "config.yaml")
    command = ["train", "--config_file", str(tmp_path / "config.yaml"), "--zoo.suite", str(Path(config.checkpoint_folder).parent / "suite")]
    for flags, status, said in (
        (["--resume", "--overwrite"], 2, "--resume goes on with a run, --overwrite begins it anew; give one of them"),
        ([], 2, f"run {folder} stands at step 4; give --resume"),
        (["--resume"], 0, ""),
        (["--resume"], 2, "is finished (a generator of 6 steps), there is nothing to resume"),
        ([], 2, "is finished (a generator of 6 steps); give another --experiment_name"),
        (["--overwrite", "--training.total_steps", "2"], 0, ""),
    ):
        assert main([*command, *flags]) == status
        assert said in capsys.readouterr().err


def test_run_zoo_and_cache_have_a_folder_each(config, tmp_path, capsys):
    run = interrupted(config, 4)
    before = content(run)
    config.save(tmp_path / "c.yaml")
    zoo = ["zoo", "build", str(tmp_path / "c.yaml"), "--suite", str(Path(config.checkpoint_folder).parent / "suite"), "--zoo", str(run)]
    for command, what in (
        (["compute-deltas", "--zoo", config.checkpoint_folder, "--deltas", str(run)], "a cache of deltas"),
        (zoo, "a zoo"),
    ):
        assert main(command) == 2
        assert f"{run}: holds a run, with which {what} would be mixed up; give another folder" in capsys.readouterr().err
    assert content(run) == before
    shutil.copytree(config.checkpoint_folder, tmp_path / "zoo")
    for begin in ("new", "overwrite"):
        said = refusal(changed(config, experiment_name="zoo"), begin)
        assert "zoo: holds a zoo or a cache of deltas, with which a run would be mixed up" in said


@pytest.mark.slow
def test_two_real_processes_and_a_kill(config, tmp_path):
    config = changed(config, training__total_steps=100_000, training__save_interval=5)
    config = changed(config, training__log_interval=5, training__eval_interval=100_000, zoo__suite=config.checkpoint_folder[:-3] + "suite")
    config.save(tmp_path / "config.yaml")
    command = [sys.executable, "-m", "llgbm", "train", "--config_file", str(tmp_path / "config.yaml")]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while first.poll() is None and not list(config.run_folder.glob(f"checkpoints/*/{MARKER}")):
            time.sleep(0.05)
        second = subprocess.run([*command, "--overwrite"], capture_output=True, text=True)
        assert second.returncode == 2
        assert second.stderr.startswith(f"llgbm: {config.run_folder}: process {first.pid} has worked there since ")
        assert second.stderr.count("\n") == 1
        assert "train); wait for it, or choose another folder" in second.stderr
        assert first.poll() is None
        os.kill(first.pid, signal.SIGKILL)
    finally:
        first.kill()
        first.wait()
    assert (config.run_folder / LOCK_FILE).exists()
    third = subprocess.run(command, capture_output=True, text=True)
    assert third.returncode == 2
    assert "stands at step" in third.stderr
    fourth = subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert fourth.stderr is not None
    lines = [fourth.stderr.readline()]
    while " now " in lines[-1]:  # until it has done a step
        lines.append(fourth.stderr.readline())
    assert lines[-1].startswith("train run: ")
    fourth.send_signal(signal.SIGINT)
    assert "llgbm: interrupted" in fourth.communicate()[1]
    assert fourth.returncode == 130
    assert not (config.run_folder / LOCK_FILE).exists()
    assert json.loads((config.run_folder / "metadata.json").read_text())["state"] == "FAILED"
