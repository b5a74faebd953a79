"""The command line's frame: overview, faults in one sentence, exit statuses, precedence of values."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llgbm.cli import COMMANDS, main
from llgbm.cli.options import add_config_arguments, make_parser, read_config
from llgbm.errors import InputError
from llgbm.zoo.micro.world import micro_suite


def _config(*arguments: str):
    parser = make_parser("test")
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
        (["zoo", "build", "--lora.rank", "0", "--zoo.steps", "x"], "lora.rank must be at least 1, found 0; zoo.steps must be an integer"),
        (["zoo", "build", "--zoo.seeds", "[1"], "--zoo.seeds '[1' is not valid YAML"),
        (["zoo", "list", "--checkpoint_folder", "nowhere"], "nowhere: not a zoo"),
        (["compose", "--max_examples", "0"], "--max_examples is 0; give 1 or more"),
        (["compose", "--seeds", "-1"], "--seeds is -1; give a seed from 0 to 4294967295"),
        (["retrieve", "--description", "x", "--k", "0"], "--k is 0; give 1 or more"),
        (["train", "--report_to", "nowhere"], "training.report_to must be one of"),
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
