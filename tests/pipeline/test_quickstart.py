"""The whole way on a small suite: every stage leaves what the next one reads, and runs only once."""

import json
import shlex
from pathlib import Path

import pytest
from peft import PeftModel

from llgbm.cli import main
from llgbm.progress import ProgressBar
from llgbm.zoo.base import load_base
from llgbm.zoo.micro.world import micro_suite

SEEN = ["reverse-lower-brackets", "rotate_left-upper-plain", "increment-commas-plain", "double-letters-plain", "color-last-plain"]
UNSEEN = ["reverse-lower-plain", "increment-digits-plain"]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    micro_suite(n_train=20, n_test=4).select(SEEN + UNSEEN).save(tmp_path / "suite")
    folders = {
        "--zoo.suite": "suite",
        "--checkpoint_folder": "zoo",
        "--delta_cache_dir": "deltas",
        "--output_dir": "outputs",
    }
    return ["quickstart", "--config", "smoke", *(part for flag, name in folders.items() for part in (flag, str(tmp_path / name)))]


def test_suite_has_what_the_test_needs() -> None:
    tasks = micro_suite(n_train=20, n_test=4).tasks
    assert {tasks[name].split for name in SEEN} == {"seen"}
    assert {tasks[name].split for name in UNSEEN} == {"unseen_combination"}


def test_quickstart_end_to_end_and_again(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    stages = ("zoo: 7 teachers", "deltas:", "pictures:", "generator:", "evaluation:", "answers:", "report:")
    for heading in (*stages, "generated adapter", "What to run next"):
        assert heading in out
    run = tmp_path / "outputs" / "smoke"
    written = ("config.yaml", "metadata.json", "metrics.jsonl", "generator/config.json", "eval_main.json", "figures/delta_map.svg")
    for name in (*written, "example_answers.json", "report.html"):
        assert (run / name).exists(), name
    assert json.loads((run / "metadata.json").read_text())["state"] == "COMPLETED"
    document = json.loads((run / "eval_main.json").read_text())
    assert set(document) >= {"splits", "tasks", "base", "config_hash"}
    for methods in document["splits"].values():
        for scores in methods.values():
            numbers = {"score", "score_stderr", "exact_match", "low", "high", "nll", "gain_recovered"}
            assert set(scores) == {*numbers, "tokens_read", "n_tasks", "n_examples"}
    assert {"base", "teacher", "generated"} <= set(document["splits"]["unseen_combination"])
    adapter = next(path.parent for path in run.rglob("adapter_config.json"))
    PeftModel.from_pretrained(load_base("micro").model, adapter)

    command = next(line for line in out.split("What to run next")[1].splitlines() if "llgbm generate" in line)
    assert main([*shlex.split(command)[1:-1], str(tmp_path / "next")]) == 0
    assert (tmp_path / "next" / "adapter_config.json").exists()

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and "example_adapter" not in path.parts}
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("already there") == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_interrupted_training_goes_on_and_a_foreign_generator_is_not_shown(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(bar: ProgressBar, done: int, total: int, **figures: object) -> None:
        if bar.label == "train smoke" and done == 5:
            raise KeyboardInterrupt

    log = tmp_path / "outputs" / "smoke" / "metrics.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "__call__", interrupt)
        assert main(arguments) == 130
    before = log.read_text().splitlines()
    assert main(arguments) == 0
    lines = log.read_text().splitlines()
    assert len(lines) == 6
    assert lines[:3] == before[:3]  # times and all: these steps were not done again

    def of_another_zoo() -> None:
        metadata = log.with_name("metadata.json")
        metadata.write_text(metadata.read_text().replace('"zoo": "', '"zoo": "0'))

    def of_other_settings() -> None:
        assert main(["train", *arguments[1:], "--training.learning_rate", "1e-4", "--overwrite"]) == 0
        capsys.readouterr()
        held = {path: path.stat().st_mtime_ns for path in log.parent.rglob("*") if path.is_file()}
        assert main(arguments) == 2
        assert held == {path: path.stat().st_mtime_ns for path in log.parent.rglob("*") if path.is_file()}
        assert "is finished (a generator of 6 steps); give another --experiment_name, or --overwrite" in capsys.readouterr().err

    for put_a_generator, flags in ((of_another_zoo, []), (of_other_settings, ["--overwrite"])):
        put_a_generator()
        capsys.readouterr()
        assert main([*arguments, *flags]) == 0
        assert "generator: already there" not in capsys.readouterr().out
        assert json.loads(log.read_text().splitlines()[-1])["grad_norm"] == json.loads(lines[-1])["grad_norm"]


def test_a_fault_keeps_what_was_done(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--generator.encoder", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert (tmp_path / "zoo" / "manifest.json").exists()
    assert main(arguments) == 0


def test_broken_suite_is_named_and_nothing_is_written(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "suite" / "train.jsonl"
    path.write_text(path.read_text() + '{"task": \n')
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "train.jsonl:141: not valid JSON" in err
    assert not (tmp_path / "zoo").exists()


def test_quickstart_in_bfloat16_and_an_evaluation_in_float32_when_asked_for(arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--model.dtype", "bfloat16"]) == 0
    run, zoo = tmp_path / "outputs" / "smoke", tmp_path / "zoo"
    document = json.loads((run / "eval_main.json").read_text())
    assert document["base"] == json.loads((zoo / "manifest.json").read_text())["base"]
    assert document["base"]["dtype"] == "bfloat16"
    again = ["evaluate", "--checkpoint", str(run), "--data_dir", str(zoo), "--output", str(tmp_path / "single.json"), "--max_examples", "1"]
    assert main([*again, "--methods", "base", "generated", "--cache_dir", str(tmp_path / "cache"), "--dtype", "float32"]) == 0
    found = json.loads((tmp_path / "single.json").read_text())["base"]
    assert (found["dtype"], found["source_hash"]) == ("float32", document["base"]["source_hash"])
