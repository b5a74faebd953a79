"""The command line's frame: overview, faults in one sentence, exit statuses, precedence of values."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from llgbm.cli import COMMANDS, GOES_ON, main
from llgbm.cli.options import add_config_arguments, read_config
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError
from llgbm.files import names_its_faults, write_text
from llgbm.progress import ProgressBar
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suites import load_suite


def _config(*arguments: str):
    parser = CommandParser("test")
    add_config_arguments(parser)
    return read_config(parser.parse_args(list(arguments)))


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_needs_no_torch_for_it(name: str) -> None:
    code = f"import sys; from llgbm.cli import main; status = main([{name!r}, '--help']); sys.exit(status or ('torch' in sys.modules) * 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"llgbm {name}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zo"], "unknown command 'zo' (did you mean 'zoo'?)"),
        (["zoo", "build", "--lora.rnk", "3"], "unrecognized arguments: --lora.rnk 3 (did you mean --lora.rank?)"),
        (["evaluate", "--"], "unrecognized arguments: --; 'llgbm evaluate --help' shows the flags"),
        (["ablate", "few", "--output_dir", "x"], "unrecognized arguments: --output_dir x (did you mean --output?)"),
        (["zoo", "build", "--lora.rank", "0", "--zoo.steps", "x"], "lora.rank must be at least 1, found 0; zoo.steps must be an integer"),
        (["zoo", "build", "--zoo.seeds", "[1"], "--zoo.seeds '[1' is not valid YAML"),
        (["zoo", "list", "--checkpoint_folder", "nowhere"], "nowhere: not a zoo"),
        (["compose", "--max_examples", "0"], "--max_examples is 0; give 1 or more"),
        (["compose", "--seeds", "-1"], "--seeds is -1; give a seed from 0 to 4294967295"),
        (["compose", "--seeds", "99999999999999999999"], "--seeds is 99999999999999999999; give a seed from 0 to 4294967295"),
        (["evaluate", "--seed", "4294967296"], "--seed is 4294967296; give a seed from 0 to 4294967295"),
        (["train", "--seed", "99999999999999999999"], "seed must be at most 4294967295, found 99999999999999999999"),
        (["zoo", "build", "--zoo.seeds", "[0, -1, 4294967296]"], "zoo.seeds[1] must be at least 0, found -1; zoo.seeds[2] must be at most"),
        (["zoo", "build", "--zoo.seeds", "[" * 1500], "is not valid YAML; expected a list of an integer"),
        (["retrieve", "--description", "x", "--k", "0"], "--k is 0; give 1 or more"),
        (["train", "--report_to", "nowhere"], "training.report_to must be one of"),
        (["train", "--experiment_name", ""], "config delta_multi: experiment_name: the name '' is empty; it names a folder"),
        (["train", "--experiment_name", "../../x"], "experiment_name: the name '../../x' holds the separator '/'"),
        (["evaluate", "--name", "../../x"], "evaluation 'eval_../../x.json' holds the separator '/'"),
        (["zoo", "tasks", "--suite", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("llgbm: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list", "--checkpoint_folder", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_failure_and_interruption_have_their_own_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import llgbm.cli.zoo as command

    for error, status in ((RuntimeError("disk on fire"), 1), (KeyboardInterrupt(), 130)):

        def run(args: object, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(command, "run", run)
        assert main(["zoo", "list"]) == status
    assert "RuntimeError: disk on fire" in capsys.readouterr().err


@pytest.mark.parametrize("order", [0, 1])
def test_flag_wins_over_file_wins_over_default_whatever_the_order(tmp_path: Path, order: int) -> None:
    (tmp_path / "c.yaml").write_text("lora: {rank: 8, alpha: 16}\n")
    parts = [["--config_file", str(tmp_path / "c.yaml")], ["--lora.rank", "2"]]
    config = _config(*parts[order], *parts[1 - order])
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (2, 16, 0.0)


def test_flags_are_typed_by_their_field() -> None:
    config = _config(
        "--model.name", "123", "--zoo.seeds", "[0, 1]", "--training.learning_rate", "1e-4", "--training.max_train_tasks", "null"
    )
    assert config.model.name == "123"
    assert config.zoo.seeds == [0, 1]
    assert config.training.learning_rate == 1e-4
    assert config.training.max_train_tasks is None


def test_unknown_preset() -> None:
    with pytest.raises(InputError, match="unknown config 'x'"):
        _config("--config", "x")


def test_tasks_as_json_as_folder_and_as_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = micro_suite(n_train=4, n_test=2)
    suite.select(list(suite.tasks)[:5]).save(tmp_path / "one")
    arguments = ["zoo", "tasks", "--suite", str(tmp_path / "one"), "--json"]
    assert main([*arguments, "--save", str(tmp_path / "two"), "--figure", str(tmp_path / "tasks.png")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["tasks"]) == 5
    assert main(["zoo", "tasks", "--suite", str(tmp_path / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hash"] == shown["hash"]
    assert (tmp_path / "tasks.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "tasks.svg").exists()


def test_a_part_of_a_suite_that_was_saved_can_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = micro_suite(n_train=4, n_test=2)
    mixture = next(task for task in suite if task.parts)
    suite.select([mixture.name, *mixture.parts]).save(tmp_path / "whole")
    for chosen, parts in (([mixture.name, mixture.parts[0]], ()), ([mixture.name, *mixture.parts], mixture.parts)):
        assert main(["zoo", "tasks", "--suite", str(tmp_path / "whole"), "--tasks", *chosen, "--save", str(tmp_path / "part")]) == 0
        assert load_suite(tmp_path / "part").tasks[mixture.name].parts == parts


def test_yaml_nested_too_deep_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep.yaml").write_text("lora: " + "[" * 1500 + "]" * 1500)
    assert main(["train", "--config_file", str(tmp_path / "deep.yaml")]) == 2
    assert "deep.yaml: not valid YAML (nested too deeply)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "not valid JSON"),
        ("null", "which 'llgbm zoo build' writes anew: the whole must be a mapping, found None"),
        ('{"teachers": []}', "base is missing; give a mapping; suite is missing; give a mapping"),
        ('{"teachers": null, HEAD}', "teachers must be a list of a mapping, found None"),
        ('{"teachers": [{}], HEAD}', "teachers[0].path is missing; give a string; teachers[0].task is missing"),
        ('{"teachers": [{TEACHER, "seed": "1"}], HEAD}', "teachers[0].seed must be an integer, found '1'"),
        ('{"teachers": [], "batches": [["../x"]], HEAD}', "batches[0][0]: the path '../x': part '..' is a step in a path"),
    ],
)
def test_manifest_of_another_shape_is_bad_input(manifest: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = '"base": {"name": "micro", "hash": "x"}, "suite": {"source": "micro", "hash": "y"}'
    teacher = '"path": "a", "task": "a", "domain": "a", "split": "seen", "steps": 1, "exact_match": 1, "hash": "a"'
    (tmp_path / "manifest.json").write_text(manifest.replace("HEAD", head).replace("TEACHER", teacher))
    for command in (["zoo", "list"], ["train"]):
        assert main([*command, "--checkpoint_folder", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert "manifest.json" in err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "status"),
    [([], 141), (["train", "--help"], 0), (["zoo", "tasks"], 141), (["zoo", "tasks", "--json"], 141)],  # argparse itself drops its help
)
def test_a_closed_pipe_ends_quietly(command: list[str], status: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "llgbm", *command], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (status, "")


def test_sigterm_marks_the_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    suite = micro_suite(n_train=4, n_test=2)
    suite.select(list(suite.tasks)[:2]).save(tmp_path / "suite")
    monkeypatch.setattr(ProgressBar, "__call__", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    flags = {"checkpoint_folder": tmp_path / "zoo", "zoo.suite": tmp_path / "suite", "zoo.steps": 2, "zoo.adapters_per_batch": 1}
    assert main(["zoo", "build", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]) == 143
    record = json.loads((tmp_path / "zoo" / "metadata.json").read_text())
    assert (record["state"], record["error"]) == ("FAILED", "Terminated: SIGTERM")
    assert "llgbm: terminated; what was finished is kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_fault_of_the_system_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import llgbm.cli.zoo as command

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "run", lambda args: write_text(tmp_path / "file" / "below", ""))
    assert main(["zoo", "list"]) == 1
    assert capsys.readouterr().err == f"llgbm: {tmp_path / 'file'}: File exists\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
@pytest.mark.parametrize("command", [["zoo", "tasks"], ["--version"]])
def test_output_on_a_full_disk_ends_with_one_sentence(command: list[str]) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "llgbm", *command], stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
    assert done.returncode == 2
    assert done.stderr == f"llgbm: standard output: No space left on device; free some there; {GOES_ON}\n"


def _on_full_disk(args: object) -> None:
    with Path("/dev/full").open("wb", buffering=0) as file, names_its_faults("deltas/adapters.jsonl"):
        file.write(b"x")


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (_on_full_disk, "deltas/adapters.jsonl: No space left on device; free some there"),
        (lambda args: bytearray(1 << 60), "memory ran out; free memory, or let less be done at once (--memory_gb)"),
        (lambda args: torch.empty(1 << 60), "memory ran out (*emory: you*); free memory, or let less be done at once (--memory_gb)"),
    ],
)
def test_what_the_system_refuses_is_one_sentence_with_a_remedy_and_status_2(
    work: Callable[[object], object], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import llgbm.cli.zoo as command

    monkeypatch.setattr(command, "run", work)
    assert main(["zoo", "list"]) == 2
    assert fnmatch(capsys.readouterr().err, f"llgbm: {said}; {GOES_ON}\n")
