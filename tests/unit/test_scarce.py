"""A few commands with too little of everything, as `scripts/scarce.py` does more: one sentence, nothing half-written, nothing lost."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import scarce

SCRIPT = Path(scarce.__file__)
MAY_MOUNT = (
    shutil.which("unshare") and not subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "kinds"),
    [
        pytest.param(
            "disk",
            ("zoo", "deltas", "training", "store"),
            marks=pytest.mark.skipif(not MAY_MOUNT, reason="this system lets nobody mount"),
        ),
        ("files", ("zoo", "training", "store", "generate")),
        ("memory", ("deltas",)),
    ],
)
def test_commands_with_too_little_end_with_one_sentence_and_go_on_with_more(of: str, kinds: tuple[str, ...]) -> None:
    command = [sys.executable, str(SCRIPT), "--of", of, "--kinds", *kinds, "--growth", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["kind"] for row in rows] == [*kinds]
    assert all(row["refused"] and not row["faults"] for row in rows)


class Careless:
    """A command that leaves what it began, says nothing of use, and forgets what it had."""

    tries = 0

    def __call__(self, folder: Path) -> list[str]:
        folder.mkdir(exist_ok=True)
        (folder / ".left.tmp").touch()
        Careless.tries += 1
        return ["zoo", "list", "--zoo", str(folder)] if Careless.tries in (2, 3) else ["--version"]

    def done(self, folder: Path) -> set[str]:
        return {"something"} if Careless.tries == 2 else set()


def test_what_is_wrong_is_noticed(tmp_path: Path) -> None:
    command = Careless()
    result: Callable[[Path], int] = lambda folder: Careless.tries  # noqa: E731
    tally, found = scarce.starve("files", "careless", scarce.Kind(command, command.done, result), tmp_path / "a", lambda now: now + 1)
    assert (tally.refused, tally.faults) == (2, len(found))
    assert sum(".left.tmp was left" in fault for fault in found) == 2
    assert sum("it said: llgbm: " in fault for fault in found) == 2
    assert sum("something is lost" in fault for fault in found) == 1
