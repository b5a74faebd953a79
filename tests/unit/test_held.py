"""What a user's first hour must never meet: a hostile file, another locale, a signal, and none of them ends in a traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_world import build_world, changed

from llgbm.cli import main
from llgbm.progress import ProgressBar

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "unknown key a"),
        ("seed: !!python/object/apply:os.system ['touch HERE/owned']\n", "not valid YAML"),
        ("seed: !!python/name:os.system\n", "not valid YAML"),
        ("a: *nobody\n", "not valid YAML"),
        ("seed: &s [*s]\n", "seed must be an integer"),
        ("{? [a, b] : c}\n", "found unhashable key"),
        ("seed: 1\nseed: 2\n", "key 'seed' stands twice"),
        ("- 1\n", "expected a mapping of config fields, found list"),
        ("\x00", "not valid YAML"),
    ],
    ids=["aliases", "code", "name", "no anchor", "itself", "key", "twice", "list", "zero"],
)
def test_hostile_yaml_is_one_sentence(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(text.replace("HERE", str(tmp_path)))
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 5000
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_text_prints_in_any_locale(locale: str, tmp_path: Path) -> None:
    rows = {
        "tasks": [{"task": "é", "domain": "d", "description": "→ ß 日本"}],
        "train": [{"task": "é", "input": "i", "output": "o"}],
        "test": [{"task": "é", "input": "i", "output": "o"}],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIO"))}
    command = [sys.executable, "-m", "llgbm", "zoo", "tasks", "--suite", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env={**environment, "LC_ALL": locale})
    assert done.returncode == 0, done.stderr
    assert "→ ß 日本" in done.stdout.decode()


def test_no_color_where_it_is_not_wanted(tmp_path: Path) -> None:
    for extra in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {}):
        command = [sys.executable, "-m", "llgbm", "zoo", "tasks", "--count", "2"]
        done = subprocess.run(command, capture_output=True, env={**os.environ, **extra})
        assert done.returncode == 0
        assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(("number", "status", "error"), [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, 130, "KeyboardInterrupt")])
def test_a_signal_marks_the_run_failed_and_resume_goes_on(
    number: signal.Signals, status: int, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = str(tmp_path / "suite")
    config = changed(build_world(tmp_path), output_dir=str(tmp_path / "out"), training__save_interval=1, zoo__suite=suite)
    config.save(tmp_path / "c.yaml")
    capsys.readouterr()  # what other libraries said while the world was built

    def interrupt(bar: ProgressBar, done: int, total: int, **figures: object) -> None:
        if done == 4:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "__call__", interrupt)
        assert main(["train", str(tmp_path / "c.yaml")]) == status
    said = [line for line in capsys.readouterr().err.splitlines() if "the code differs from commit" not in line]  # a developer's tree
    assert len(said) == 1
    assert "what was finished is kept, the same command goes on from there (train, train-delta-only: with --resume)" in said[0]
    record = json.loads((config.run_folder / "metadata.json").read_text())
    assert record["state"] == "FAILED"
    assert record["error"].startswith(error)
    assert [path.name for path in config.run_folder.glob(".*")] == []
    assert main(["train", str(tmp_path / "c.yaml"), "--resume"]) == 0
    assert json.loads((config.run_folder / "metadata.json").read_text())["state"] == "COMPLETED"
