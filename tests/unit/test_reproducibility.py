"""Seeds reach every generator, hashes notice one changed weight, records survive crashes."""

import json
import platform
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_world import PerfectGenerator, build_evaluation_world

from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache
from llgbm.errors import InputError
from llgbm.files import hash_tensors, read_json
from llgbm.reproducibility import compute_delta_cache_hash, compute_model_hash, verify_reproducibility
from llgbm.tracking.environment import get_environment_info, get_git_info, set_seed
from llgbm.tracking.record import ExperimentLogger, cut_metrics, read_metrics
from llgbm.zoo.folder import TeacherZoo


@pytest.fixture(autouse=True)
def _restore_determinism():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def _draws(seed: int) -> str:
    set_seed(seed)
    numbers = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    layer = torch.nn.Linear(4, 4)
    return hash_tensors({"numbers": torch.tensor(numbers, dtype=torch.float64), "weight": layer.weight})


def test_same_seed_same_bits_and_another_seed_others() -> None:
    assert _draws(1) == _draws(1)
    assert _draws(1) != _draws(2)


@pytest.mark.parametrize("disturb", [lambda: random.random(), lambda: np.random.rand(), lambda: torch.rand(())])
def test_a_disturbed_generator_changes_what_follows(disturb) -> None:
    def after(disturbed: bool) -> list[float]:
        set_seed(0)
        if disturbed:
            disturb()
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    assert after(True) != after(False)


def test_model_hash_notices_one_weight() -> None:
    model = torch.nn.Linear(3, 3)
    before = compute_model_hash(model)
    assert compute_model_hash(model) == before
    with torch.no_grad():
        model.weight[1, 1] += 1e-6
    assert compute_model_hash(model) != before


def test_cache_hash_needs_a_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest.json: no such file"):
        compute_delta_cache_hash(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="not the manifest of a delta cache"):
        compute_delta_cache_hash(tmp_path)
    (tmp_path / "manifest.json").write_text('{"adapters": {}, "config": {}}')
    empty = compute_delta_cache_hash(tmp_path)
    (tmp_path / "left_by_a_crash.safetensors").write_bytes(b"x")
    assert compute_delta_cache_hash(tmp_path) == empty


def test_cache_hash_is_of_content_not_of_paths(tmp_path: Path) -> None:
    for folder, adapter in (("one", "/here/a"), ("two", "there/a")):
        DeltaCache(tmp_path / folder).save_delta(adapter, np.ones(2), key="k")
    one = compute_delta_cache_hash(tmp_path / "one")
    assert compute_delta_cache_hash(tmp_path / "two") == one
    (tmp_path / "one" / "k.safetensors").write_bytes(b"y")
    assert compute_delta_cache_hash(tmp_path / "one") != one
    (tmp_path / "one" / "k.safetensors").unlink()
    with pytest.raises(InputError, match=r"k.safetensors: gone from the delta cache"):
        compute_delta_cache_hash(tmp_path / "one")


def test_git_and_environment() -> None:
    git = get_git_info()
    assert set(git) == {"commit", "branch", "dirty"}
    assert git["commit"] is None or re.fullmatch("[0-9a-f]{40}", git["commit"])
    info = get_environment_info()
    assert info["packages"]["torch"] == torch.__version__ or info["packages"]["torch"] in torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert info["cpu_capability"]
    assert (info["python_version"], info["torch_version"]) == (platform.python_version(), torch.__version__)
    assert (info["cuda_available"], info["cuda_version"]) == (torch.cuda.is_available(), torch.version.cuda)
    assert info["num_gpus"] == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert (info["gpu_name"] is None) == (info["num_gpus"] == 0)
    json.dumps(info)


def test_logger_writes_the_run_folder(tmp_path: Path) -> None:
    logger = ExperimentLogger(tmp_path, "run")
    assert read_json(tmp_path / "run" / "metadata.json")["state"] == "RUNNING"
    logger.log_config({"lora.rank": 4})
    logger.log_inputs(zoo="abc")
    logger.log_metrics(1, {"loss": 0.5})
    logger.log_metrics(2, {"loss": 0.25})
    logger.log_evaluation("test", {"splits": {}})
    logger.finalize({"loss": 0.25})
    record = read_json(tmp_path / "run" / "metadata.json")
    assert record["state"] == "COMPLETED"
    assert record["final_metrics"] == {"loss": 0.25}
    assert record["inputs"] == {"zoo": "abc"}
    assert len(record["config_hash"]) == 8
    assert record["seconds"] >= 0
    assert list(read_metrics(tmp_path / "run" / "metrics.jsonl")) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert read_json(tmp_path / "run" / "eval_test.json") == {"splits": {}}


def test_failed_run_says_so_and_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no luck"), ExperimentLogger(tmp_path, "run"):
        raise ValueError("no luck")
    record = read_json(tmp_path / "run" / "metadata.json")
    assert (record["state"], record["error"]) == ("FAILED", "ValueError: no luck")
    with ExperimentLogger(tmp_path, "run"):
        pass
    assert read_json(tmp_path / "run" / "metadata.json")["state"] == "COMPLETED"


def test_a_run_that_cannot_even_say_that_it_failed_shows_the_first_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no luck"), ExperimentLogger(tmp_path, "run"):  # noqa: PT012
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").write_text("in the way")
        raise ValueError("no luck")


def test_torn_last_line_is_passed_over_and_not_glued_to_the_next(tmp_path: Path) -> None:
    logger = ExperimentLogger(tmp_path, "run")
    logger.log_metrics(1, {"loss": 1.0})
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 2, "lo')
    logger.log_metrics(3, {"loss": 3.0})
    assert [row["step"] for row in read_metrics(path)] == [1, 3]


def test_cutting_metrics_keeps_whole_lines_up_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_metrics(path, 2)
    assert not path.exists()
    path.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "lo\n{"step": 2, "loss": 1e-07}\n{"step": 3, "loss": 0.3}\n')
    cut_metrics(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 1e-07}\n'


def test_verify_reproducibility_really_reruns_the_evaluation(tmp_path: Path) -> None:
    zoo = build_evaluation_world(tmp_path)
    config = ExperimentConfig(checkpoint_folder=str(zoo)).save(tmp_path / "config.yaml")
    exact = {t.task: t.exact_match for t in TeacherZoo.load(zoo).select("unseen_combination")}
    expected = {"unseen_combination/teacher/exact_match": sum(exact.values()) / len(exact)}
    generator = tmp_path / "generator"
    PerfectGenerator(TeacherZoo.load(zoo)).save_pretrained(generator)
    assert verify_reproducibility(config, generator, expected)
    assert not verify_reproducibility(config, generator, {"unseen_combination/base/exact_match": 0.5})
    assert verify_reproducibility(config, generator, {"unseen_combination/base/exact_match": 0.5}, tolerance=1.0)
    assert not verify_reproducibility(config, generator, {"unseen_combination/teacher/gain_recovered": 0.5})
    with pytest.raises(InputError, match="named split/method/metric"):
        verify_reproducibility(config, generator, {"exact_match": 0.5})
    with pytest.raises(InputError, match="metric 'bleu' is not computed"):
        verify_reproducibility(config, generator, {"unseen_combination/teacher/bleu": 0.5})
