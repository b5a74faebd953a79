"""The study of LoRA repeats in fresh processes; every control that ought to change it, or to make it incomparable, is found and named."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llgbm.cli import main
from llgbm.config import content
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.studies.lora import USED, LoraStage, make_study, train_lora
from llgbm.studies.reproduce import read_records
from llgbm.studies.stages import read_stage
from llgbm.tracking.comparison import DIFFERS, IDENTICAL, INCOMPARABLE, compare
from llgbm.zoo.named import smollm2_file

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "docs" / "lora_micro.json"
SHORT = ("--base", "micro", "--steps", "3", "--examples", "16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    before = torch.are_deterministic_algorithms_enabled()
    train_lora(make_study("micro", steps=3, examples=16), folder)
    torch.use_deterministic_algorithms(before)
    return folder


def study(*arguments: object, **variables: str) -> tuple[int, dict]:
    """Exit status and JSON of `llgbm reproduce lora` in a process of its own."""
    command = [sys.executable, "-m", "llgbm", "reproduce", "lora", *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_runs_repeat_and_other_threads_instructions_and_seeds_are_named(tmp_path: Path) -> None:
    here = tmp_path / "here.json"
    status, found = study(*SHORT, "--runs", 2, "--record", here)
    assert (status, found["verdict"], found["new_runs_among_themselves"]) == (0, IDENTICAL, IDENTICAL)
    (second,) = found["runs"]
    assert set(second["artifacts"]) == {"adapter/adapter_model.safetensors", "optimizer.safetensors", "rng.safetensors"}
    assert set(second["metrics"]) == {"train_loss", "eval_loss", "train_perplexity", "eval_perplexity", "exact_match"}
    assert {when: {p["status"] for p in points} <= {"pass", "not applicable"} for when, points in second["points"].items()} == {
        "before": True,
        "after": True,
    }
    status, found = study(*SHORT, "--runs", 1, "--threads", 2, "--against", here)
    assert (status, found["verdict"]) == (1, INCOMPARABLE)
    assert found["runs"][0]["reasons"][0] == "environment threads: 1 against 2"
    assert study(*SHORT, "--runs", 1, "--threads", 2, "--against", here, "--or_incomparable")[0] == 0
    status, found = study(*SHORT, "--runs", 1, "--against", here, ATEN_CPU_CAPABILITY="default")
    assert (status, found["verdict"]) == (1, INCOMPARABLE)
    assert any("ATEN_CPU_CAPABILITY" in reason or "cpu_capability" in reason for reason in found["runs"][0]["reasons"])
    status, found = study(*SHORT, "--runs", 1, "--seed", 43, "--against", here, "--or_incomparable")
    assert (status, found["verdict"]) == (1, DIFFERS)
    (other,) = found["runs"]
    assert "setting seed: 42 against 43 (by 1.0e+00)" in other["reasons"]
    assert other["first_step"] == 1


@pytest.mark.slow
def test_the_committed_record_is_met_or_named_incomparable() -> None:
    status, found = study("--base", "micro", "--runs", 1, "--against", GOLDEN, "--or_incomparable")
    assert status == 0, found["runs"][0]["reasons"]


def test_the_committed_record_is_of_the_study_as_it_is_now() -> None:
    stage = LoraStage.of(make_study("micro"))
    (golden,) = read_records(GOLDEN, stage)
    assert {name.removeprefix("study "): v for name, v in golden.settings.items() if name.startswith("study ")} == asdict(stage.study)
    used = {name: value for name, value in content(stage.config).items() if name.startswith(USED)}
    assert used.items() <= golden.settings.items()
    assert all(name.startswith((*USED, "study ")) for name in golden.settings)
    assert len(golden.curve) == stage.study.steps
    assert golden.environment["threads"] == 1


@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "optimizer.safetensors", "rng.safetensors"])
def test_one_flipped_bit_is_named_with_its_file(made: Path, file: str) -> None:
    stage = read_stage(made)
    reference, whole = stage.read(made, "recorded"), load_file(made / file)
    tensors = {name: tensor.clone() for name, tensor in whole.items()}
    name = sorted(tensors)[0]
    tensors[name].view(torch.uint8).view(-1)[0] ^= 1
    save_file(tensors, made / file)
    found = compare(reference, stage.read(made, "other"))
    save_file(whole, made / file)
    assert found.verdict == DIFFERS
    assert [reason.split(": ")[0] for reason in found.reasons] == [f"artifact {file}"]
    assert compare(reference, stage.read(made, "again")).verdict == IDENTICAL


def test_random_states_that_are_gone_are_named(made: Path) -> None:
    stage = read_stage(made)
    reference, kept = stage.read(made, "recorded"), (made / "rng.safetensors").read_bytes()
    (made / "rng.safetensors").unlink()
    found = compare(reference, stage.read(made, "other"))
    (made / "rng.safetensors").write_bytes(kept)
    assert found.verdict == DIFFERS
    assert found.reasons[0].startswith("artifact rng.safetensors: ")
    assert found.reasons[0].endswith(" against absent")


@pytest.mark.parametrize("package", ["torch", "transformers", "peft", "numpy", "safetensors"])
def test_another_version_of_a_library_is_named(made: Path, package: str) -> None:
    reference = read_stage(made).read(made, "recorded")
    packages = {**reference.environment["packages"], package: "0.0.1"}
    found = compare(reference, replace(reference, environment={**reference.environment, "packages": packages}))
    assert found.verdict == INCOMPARABLE
    assert found.reasons == [f"environment packages.{package}: {reference.environment['packages'][package]} against 0.0.1"]


def test_the_same_seed_gives_the_same_and_another_does_not(made: Path, tmp_path: Path) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    train_lora(make_study("micro", steps=3, examples=16), tmp_path / "same")
    train_lora(make_study("micro", steps=3, examples=16, seed=43), tmp_path / "other")
    torch.use_deterministic_algorithms(before)
    stage = read_stage(made)
    reference = stage.read(made, "recorded")
    assert compare(reference, stage.read(tmp_path / "same", "same")).verdict == IDENTICAL
    other = compare(reference, stage.read(tmp_path / "other", "other"))
    assert (other.verdict, other.first_step) == (DIFFERS, 1)


def test_what_is_asked_for_wrongly_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["lora", "--base", "nowhere"], "--base nowhere: the study of LoRA has settings for micro and smollm2; give one of them"),
        (["lora", "--base", "micro", "--rank", "0"], "the study of LoRA: rank must be at least 1, found 0"),
        ([str(made), "--seed", "3"], "--seed is about the study of LoRA: llgbm reproduce lora;"),
        (["lora", "--base", "micro", "--task", "none", "--once", str(tmp_path / "new")], "suite micro has no task 'none'"),
        (["lora", "--base", "micro", "--once", str(made)], "is not empty; give a new folder"),
    ):
        assert main(["reproduce", *arguments]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "lora.json").write_text("{}")
    with pytest.raises(InputError, match=r"lora\.json: not of the study of LoRA"):
        read_stage(tmp_path)


def test_the_base_is_the_real_one_where_it_is_installed() -> None:
    assert make_study().base == ("micro" if smollm2_file() is None else "smollm2")


def test_a_run_into_a_folder_is_shown_with_its_points(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    status = main(["reproduce", "lora", *SHORT, "--once", str(tmp_path / "run"), "--quiet"])
    torch.use_deterministic_algorithms(before)
    assert status == 0
    out = capsys.readouterr().out
    assert f"llgbm reproduce {tmp_path / 'run'} runs it again" in " ".join(out.split())
    assert "run: before the work, hash randomization: strings hash otherwise in every process" in out
    assert len(read_json(tmp_path / "run" / "metadata.json")["points"]["after"]) == 7
