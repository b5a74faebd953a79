"""A zoo's teachers are what its manifest says, or named; and an open zoo is found from any folder."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from damage import DAMAGES
from training_world import build_world, changed

from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.files import read_json, write_json
from llgbm.training.behavior import train_generator
from llgbm.zoo.build import build_zoo
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.reword import reword_zoo


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    return build_world(tmp_path)


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.items())
def test_a_teacher_that_is_not_as_it_was_trained_is_named(
    config: ExperimentConfig, damage: Callable[[Path, Path], None], reason: str
) -> None:
    zoo = TeacherZoo.load(config.checkpoint_folder)
    one, two = zoo.teachers[1], zoo.teachers[2]
    zoo.check(zoo.teachers)
    damage(zoo.folder / one.path, zoo.folder / two.path)
    message = rf"teacher {one.path} of zoo .* is not as it was trained \(.*{reason}.*\); 'llgbm zoo build .*' trains it again"
    for read in (zoo.factors, TeacherZoo.load(zoo.folder).check):
        with pytest.raises(InputError, match=message):
            read(zoo.teachers)
    assert list(zoo.damaged()) == [one.path]
    assert zoo.factors([two]).n_adapters == 1
    with pytest.raises(InputError, match=message):
        train_generator(config)


def test_several_teachers_that_are_not_as_they_were_are_one_sentence(config: ExperimentConfig) -> None:
    zoo = TeacherZoo.load(config.checkpoint_folder)
    flip, truncate = list(DAMAGES)[1:3]
    for i in (0, 2, 4):
        (flip if i else truncate)(zoo.folder / zoo.teachers[i].path, zoo.folder)
    first, *others = (zoo.teachers[i].path for i in (0, 2, 4))
    for read in (zoo.check, zoo.factors):
        with pytest.raises(InputError) as refused:
            read(zoo.teachers)
        assert str(refused.value).count("trains it again") == 1
        assert str(refused.value).startswith(f"teacher {first} of zoo")
        assert str(refused.value).endswith(f"; 3 of 6 teachers are not, the others are {', '.join(others)}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora.rank", "64"], "lora.rank is 64, but zoo .* was made with 2, and a zoo decides that"),
        (["--zoo.suite", "nonexistent"], "no such folder"),
        (["--model.dtype", "bfloat16"], "model.dtype is bfloat16, but zoo .* was made with float32"),
        (["--model.device", "banana"], "device 'banana' cannot be used here"),
    ],
)
def test_train_refuses_what_the_zoo_decides_otherwise(
    config: ExperimentConfig, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    places = ["--checkpoint_folder", config.checkpoint_folder, "--output_dir", config.output_dir]
    assert main(["train", "--config", "smoke", *places, *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (Path(config.output_dir) / "smoke").exists()


def test_what_a_zoo_decides_is_what_is_recorded(config: ExperimentConfig) -> None:
    run = train_generator(changed(config, lora__rank=64, model__dtype="bfloat16", zoo__suite="nonexistent", training__total_steps=1))
    recorded = ExperimentConfig.load(run.folder / "config.yaml")
    assert (recorded.lora.rank, recorded.model.dtype) == (2, "float32")
    assert recorded.zoo.suite == TeacherZoo.load(config.checkpoint_folder).manifest["suite"]["source"]


def test_a_zoo_is_opened_from_any_folder(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    model, zoo = replace(config.model, name="base"), replace(config.zoo, suite="suite", steps=1, batch_size=1, check_interval=1)
    build_zoo(replace(config, model=model, zoo=zoo, checkpoint_folder="built"))
    monkeypatch.chdir("/")
    flags = ["--checkpoint", "none", "--data_dir", str(tmp_path / "built"), "--output", str(tmp_path / "e.json")]
    assert main(["evaluate", *flags, "--cache_dir", str(tmp_path / "cache"), "--methods", "base", "--max_examples", "1"]) == 0
    assert read_json(tmp_path / "e.json")["base"]["name"] == str(tmp_path / "base")


def test_a_manifest_that_says_too_little_of_its_base_is_refused(config: ExperimentConfig) -> None:
    path = Path(config.checkpoint_folder) / "manifest.json"
    manifest = read_json(path)
    del manifest["base"]["tokenizer_hash"]
    write_json(path, manifest)
    with pytest.raises(InputError, match="the record of its base has no tokenizer_hash"):
        _ = TeacherZoo.load(config.checkpoint_folder).base


def reworded(config: ExperimentConfig, folder: Path, **changes: object) -> str:
    """The world's suite with a field of its first task changed, saved."""
    suite = TeacherZoo.load(config.checkpoint_folder).suite
    first = next(iter(suite))
    other = replace(suite, tasks={**suite.tasks, first.name: replace(first, **changes)})
    other.save(folder)
    return str(folder)


def test_a_reworded_zoo_has_the_same_teachers_and_another_suite(config: ExperimentConfig, tmp_path: Path) -> None:
    zoo = TeacherZoo.load(config.checkpoint_folder)
    source = reworded(config, tmp_path / "other", description="In other words.", prompts=("a prompt",))
    made = reword_zoo(zoo.folder, source, tmp_path / "made")
    assert [t.hash for t in made.teachers] == [t.hash for t in zoo.teachers]
    assert not made.damaged()
    first = made.teachers[0]
    assert made.suite[first.task].description == "In other words."
    assert made.content_hash != zoo.content_hash
    assert read_json(made.folder / first.path / "prompts.json") == ["a prompt"]
    train_generator(changed(config, checkpoint_folder=str(made.folder), training__total_steps=1, output_dir=str(tmp_path / "outputs")))
    with pytest.raises(InputError, match="holds a zoo already"):
        reword_zoo(zoo.folder, source, tmp_path / "made")


def test_a_zoo_is_not_reworded_to_what_its_teachers_never_learned(config: ExperimentConfig, tmp_path: Path) -> None:
    zoo = TeacherZoo.load(config.checkpoint_folder)
    task = next(iter(zoo.suite))
    with pytest.raises(InputError, match=f"task {task.name} of suite .* has other examples"):
        reword_zoo(zoo.folder, reworded(config, tmp_path / "other", train=task.train[:-1]), tmp_path / "made")
    replace(zoo.suite, frame="{input}").save(tmp_path / "bare")
    with pytest.raises(InputError, match="frames its examples otherwise"):
        reword_zoo(zoo.folder, str(tmp_path / "bare"), tmp_path / "made")


def test_reword_on_the_command_line(config: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = reworded(config, tmp_path / "other", paraphrases=("Otherwise.",))
    flags = ["--checkpoint_folder", config.checkpoint_folder, "--suite", source, "--output_dir", str(tmp_path / "made")]
    assert main(["zoo", "reword", *flags]) == 0
    assert "made" in capsys.readouterr().out
    assert main(["zoo", "reword", *flags]) == 2


def test_no_teachers_at_all_are_refused(config: ExperimentConfig) -> None:
    zoo = TeacherZoo.load(config.checkpoint_folder)
    with pytest.raises(InputError, match=r"zoo .*: no teachers to read; build it with 'llgbm zoo build'"):
        zoo.factors([])
    assert not zoo.damaged([])
