"""Completion scripts, as a shell reads them."""

import shutil
import subprocess
import sys

import pytest

from llgbm.cli import COMMANDS, main

pytest.importorskip("shtab", reason="pip install 'llgbm[completion]'")

ASK = """
{script}
COMP_WORDS=({words}) COMP_CWORD={last}
$(complete -p llgbm | sed 's/.*-F \\([^ ]*\\).*/\\1/') llgbm '{word}' '{before}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script() -> str:
    done = subprocess.run([sys.executable, "-m", "llgbm", "completion", "bash"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["llgbm", ""], set(COMMANDS)),
        (["llgbm", "tr"], {"train", "train-delta-only", "try"}),
        (["llgbm", "zoo", "bu"], {"build"}),
        (["llgbm", "train", "--training.total"], {"--training.total_steps"}),
        (["llgbm", "completion", "z"], {"zsh"}),
    ],
)
def test_bash_completes_commands_actions_and_flags(script: str, words: list[str], expected: set[str]) -> None:
    asked = ASK.format(script=script, words=" ".join(words), last=len(words) - 1, word=words[-1], before=words[-2])
    done = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) >= expected
    assert all(word.startswith(words[-1]) for word in done.stdout.split())


def test_a_shell_that_is_not_known_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "invalid choice: 'fish' (choose from 'bash', 'zsh', 'tcsh')" in capsys.readouterr().err
