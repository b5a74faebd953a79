"""A few kills of each kind of work, as `scripts/crash.py` does many: nothing unreadable, nothing lost; and what is broken is noticed."""

import json
from collections.abc import Callable
from pathlib import Path

import crash
import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [(kind, 8 if kind == "deltas" else 3) for kind in crash.SHARES])
def test_kills_leave_everything_readable_and_lose_nothing(kind: str, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert crash.main(["--kills", str(kills), "--kinds", kind]) == 0
    (found,) = (json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert (found["kind"], found["kills"], found["faults"]) == (kind, kills, 0)


class Torn(crash.Writing):
    """Says what it has not written yet, and writes in place."""

    def run(self, say: Callable[[str], None], trial: int) -> None:
        self.folder.mkdir(exist_ok=True)
        say("0 1")
        (self.folder / "0.json").write_text('{"n": 0}')
        while True:
            pass


def test_what_was_said_and_is_not_there_is_noticed(tmp_path: Path) -> None:
    said, killed = crash.run_and_kill(Torn(tmp_path), 1, 1.0)
    assert killed
    assert said == ["0 1"]
    assert crash.Writing(tmp_path).faults(said) == ["0.json: 1 was said, 0 is there", "step 0 1 is lost"]


class Failing(crash.Writing):
    def run(self, say: Callable[[str], None], trial: int) -> None:
        raise ValueError


def test_work_that_fails_by_itself_is_no_kill(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Failing: the work failed by itself in trial 7"):
        crash.run_and_kill(Failing(tmp_path), 7, 5.0)
