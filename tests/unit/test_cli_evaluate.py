import json
from pathlib import Path

import pytest
from evaluation_world import PerfectGenerator, build_evaluation_world

from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.evaluation.task_eval import read_evaluation
from llgbm.zoo.folder import TeacherZoo


@pytest.fixture(scope="module")
def zoo_folder(tmp_path_factory) -> Path:
    return build_evaluation_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def run(zoo_folder, tmp_path) -> Path:
    PerfectGenerator(TeacherZoo.load(zoo_folder)).save_pretrained(tmp_path / "run" / "generator")
    ExperimentConfig(experiment_name="run", output_dir=str(tmp_path)).save()
    return tmp_path / "run"


def evaluate(zoo_folder: Path, *flags: str) -> int:
    return main(["evaluate", "--data_dir", str(zoo_folder), "--methods", "base", "teacher", *flags])


def test_the_table_shows_methods_by_split_and_the_file_lies_in_the_run(zoo_folder, run, capsys):
    cache = str(run.parent / "cache")
    status = main(["evaluate", "--checkpoint", str(run), "--data_dir", str(zoo_folder), "--cache_dir", cache, "--name", "all"])
    out = capsys.readouterr().out
    assert status == 0
    assert "mixture: paired by the 3 examples of one task" in out
    assert "seen: paired by 3 tasks" in out
    assert "too few to tell" in out
    assert "unseen combination" in out
    assert "1.000 ± 0.000 (100%)" in out
    assert "generated minus" in out
    document = read_evaluation(run / "eval_all.json")
    assert document["splits"]["seen"]["generated"]["n_tasks"] == 3
    assert document["config_hash"] == ExperimentConfig.load(run / "config.yaml").get_hash()


def test_a_generator_folder_inside_a_run_belongs_to_the_run(zoo_folder, run):
    assert evaluate(zoo_folder, "--checkpoint", str(run / "generator"), "--cache_dir", str(run.parent)) == 0
    assert (run / "eval_main.json").is_file()


def test_json_output_is_the_document(zoo_folder, tmp_path, capsys):
    output = tmp_path / "scores.json"
    assert evaluate(zoo_folder, "--checkpoint", "none", "--output", str(output), "--cache_dir", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out) == read_evaluation(output)


def test_output_may_be_a_folder_and_splits_chosen(zoo_folder, tmp_path):
    assert evaluate(zoo_folder, "--checkpoint", "none", "--output", str(tmp_path), "--cache_dir", str(tmp_path), "--splits", "mixture") == 0
    assert list(read_evaluation(tmp_path / "eval_main.json")["splits"]) == ["mixture"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint", "nowhere"], "no generator"),
        (["--checkpoint", "none", "--max_examples", "0"], "--max_examples is 0; give 1 or more"),
        (["--checkpoint", "none", "--splits", "unseen"], "unknown split 'unseen'"),
        (["--checkpoint", "none", "--dtype", "float8"], "model.dtype must be one of float32, bfloat16, float16, int8, nf4, found 'float8'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(zoo_folder, tmp_path, capsys, flags, message):
    assert evaluate(zoo_folder, "--output", str(tmp_path), "--cache_dir", str(tmp_path), *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
