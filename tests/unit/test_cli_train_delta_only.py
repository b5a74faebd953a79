"""From `train-delta-only` to what reads its predictor: `retrieve --description` and `evaluate --predictor`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_world import build_evaluation_world

from llgbm.cli import main
from llgbm.evaluation.setting import EvaluationConfig, load_setting
from llgbm.evaluation.task_eval import run_evaluation
from llgbm.files import read_json, write_json
from llgbm.models.delta_predictor import DeltaPredictor

METHODS = ("teacher", "nearest", "nearest_predicted", "merged_predicted", "nearest_fingerprint")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return build_evaluation_world(tmp_path_factory.mktemp("world"))


def train(zoo: Path, output: Path, *flags: str) -> int:
    places = [
        "--output_dir",
        output,
        "--delta_cache_dir",
        output / "deltas",
        "--checkpoint_folder",
        zoo,
        "--model.name",
        zoo.parent / "base",
    ]
    few = {"total_steps": 60, "warmup_steps": 5, "eval_interval": 60, "save_interval": 60, "tasks_per_step": 4, "learning_rate": 3e-3}
    given = [f"--training.{name}={value}" for name, value in few.items() if not any(name in flag for flag in flags)]
    return main(["train-delta-only", *map(str, places), *given, *flags])


@pytest.fixture(scope="module")
def run(zoo, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("outputs")
    assert train(zoo, output, "--variant", "b2", "--training.validation_fraction", "0", "--json") == 0
    return output / "delta_predictor"


def test_b2_says_where_it_lies_and_what_comes_next(zoo, run, tmp_path, capsys):
    assert train(zoo, tmp_path, "--variant", "b2") == 0
    out = capsys.readouterr().out
    assert f"llgbm evaluate --predictor {tmp_path / 'delta_predictor'}" in " ".join(out.split())
    assert DeltaPredictor.from_pretrained(tmp_path / "delta_predictor").spec.validated_on


def test_b1_writes_a_generator(zoo, tmp_path, capsys):
    flags = ["--training.total_steps", "1", "--objective.tether", "0", "--json"]
    assert train(zoo, tmp_path, "--variant", "b1", *flags) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(tmp_path / "delta_only")
    assert (tmp_path / "delta_only" / "generator" / "config.json").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variant", "b3"], "invalid choice: 'b3'"),
        (["--variant", "b3", "--dry_run"], "invalid choice: 'b3'"),
        (["--variant", "b3", "--print_config"], "invalid choice: 'b3'"),
        (["--variant", "b1", "--objective.product", "1"], "objective.product is 1.0; set it to 0"),
        (["--variant", "b2", "--model.name", "micro"], "belongs to a base with hash"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(zoo, tmp_path, capsys, flags, message):
    assert train(zoo, tmp_path, *flags) == 2
    assert message in capsys.readouterr().err


def test_a_description_retrieves_and_merges_its_task(zoo, run, tmp_path, capsys):
    base = ["--model.name", str(zoo.parent / "base"), "--predictor", str(run), "--cache_dir", str(run.parent / "deltas")]
    capsys.readouterr()
    merge = ["--merge", "product", "--output_dir", str(tmp_path / "merged")]
    assert main(["retrieve", "--description", "Always say c.", *base, "--k", "2", *merge, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hits"][0]["adapter"] == str(zoo / "letters" / "say c" / "seed0")
    assert (tmp_path / "merged" / "adapter_config.json").is_file()
    (tmp_path / "prompts.txt").write_text("Always say b.\nAnswer b, whatever is asked.\n")
    assert main(["retrieve", "--prompts", str(tmp_path / "prompts.txt"), *base, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["adapter"] == str(zoo / "letters" / "say b" / "seed0")


def test_a_predictor_that_reads_by_the_base_loads_it(zoo, tmp_path, capsys):
    few = ["--training.total_steps", "1", "--training.validation_fraction", "0"]
    assert train(zoo, tmp_path, "--variant", "b2", *few, "--generator.encoder", "hashing+base", "--json") == 0
    capsys.readouterr()
    places = ["--predictor", str(tmp_path / "delta_predictor"), "--deltas", str(tmp_path / "deltas")]
    status = main(["retrieve", "--description", "Always say c.", *places, "--k", "2", "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert len(json.loads(out)["hits"]) == 2


def test_retrieve_refuses_two_queries_and_another_cache(run, tmp_path, capsys):
    assert main(["retrieve", "--description", "Say a.", "--delta", "x"]) == 2
    assert "or a task by --description or --prompts; one of them" in capsys.readouterr().err
    assert main(["retrieve", "--description", "Say a.", "--predictor", str(tmp_path), "--cache_dir", str(run.parent / "deltas")]) == 2
    assert "no predictor there" in capsys.readouterr().err
    write_json(tmp_path / "manifest.json", {**read_json(run.parent / "deltas" / "manifest.json"), "config": {"base": "other"}})
    for file in [run.parent / "deltas" / "adapters.jsonl", *(run.parent / "deltas").glob("*.safetensors")]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert main(["retrieve", "--description", "Say a.", "--predictor", str(run), "--cache_dir", str(tmp_path)]) == 2
    assert "its deltas have base other, the predictor learned" in capsys.readouterr().err


def test_evaluate_scores_retrieval_by_predicted_fingerprint(zoo, run, tmp_path, capsys):
    flags = ["--checkpoint", "none", "--data_dir", str(zoo), "--predictor", str(run), "--output", str(tmp_path)]
    assert main(["evaluate", *flags, "--cache_dir", str(tmp_path / "cache"), "--methods", *METHODS]) == 0
    assert "mean over tasks" in " ".join(capsys.readouterr().out.split())
    document = read_json(tmp_path / "eval_main.json")
    seen = document["splits"]["seen"]
    assert seen["teacher"] == seen["nearest_predicted"] == seen["nearest_fingerprint"]
    assert document["splits"]["unseen_combination"]["nearest_fingerprint"]["exact_match"] == 0.0
    assert set(document["fingerprints"]) == set(document["splits"])
    assert document["fingerprints"]["seen"]["predicted"] > 0.99 > document["fingerprints"]["seen"]["pool_mean"]


def test_merging_one_teacher_is_retrieving_it(zoo, run):
    config = EvaluationConfig(predictor=str(run), top_k=1, methods=("nearest_predicted", "merged_predicted"))
    scores = run_evaluation(load_setting(None, zoo, config)).scores
    for split in scores.values():
        nearest, merged = ([score.exact.tolist() for score in split[method]] for method in config.methods)
        assert nearest == merged


def test_methods_that_retrieve_by_fingerprint_need_a_predictor_of_this_base(zoo, run, tmp_path, capsys):
    flags = ["evaluate", "--checkpoint", "none", "--data_dir", str(zoo), "--output", str(tmp_path), "--cache_dir", str(tmp_path)]
    assert main([*flags, "--methods", "nearest_predicted"]) == 2
    assert "method nearest_predicted needs a predictor of fingerprints; give --predictor" in capsys.readouterr().err
    predictor = DeltaPredictor.from_pretrained(run)
    predictor.spec.base = replace(predictor.spec.base, hash="0" * 64)
    predictor.save_pretrained(tmp_path / "predictor")
    assert main([*flags, "--predictor", str(tmp_path)]) == 2
    assert f"predictor {tmp_path} belongs to a base with hash 00000000" in capsys.readouterr().err
    predictor.spec.base, predictor.spec.trained_on = None, ["something else"]
    predictor.save_pretrained(tmp_path / "predictor")
    assert main([*flags, "--predictor", str(tmp_path)]) == 2
    assert "no teacher of a seen task the predictor trained on" in capsys.readouterr().err
