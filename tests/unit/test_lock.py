"""The lock of a folder: one living process at a time, a dead one's is taken over, another machine's is respected."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from llgbm.errors import InputError
from llgbm.tracking.lock import LOCK_FILE, hold

WORK = """
import sys
from llgbm.tracking.lock import hold
with hold(sys.argv[1]):
    print("mine", flush=True)
    sys.stdin.readline()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(folder: Path, **changed: object) -> None:
    process = psutil.Process()
    own = {"pid": process.pid, "started": process.create_time(), "command": "llgbm train", "since": "2026-01-01T00:00:00+00:00"}
    (folder / LOCK_FILE).write_text(json.dumps({"host": socket.gethostname(), **own, **changed}))


def test_a_second_process_is_refused_while_the_first_works_and_let_in_afterwards(tmp_path):
    first = start(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    second = start(tmp_path)
    _, err = second.communicate("\n", timeout=60)
    assert second.returncode != 0
    assert f"{tmp_path}: process {first.pid} has worked there since 2" in err
    first.communicate("\n", timeout=60)
    assert not (tmp_path / LOCK_FILE).exists()
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == psutil.Process().pid


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    first = start(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    first.kill()
    while psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:  # not waited for: its id still stands for it
        pass
    with hold(tmp_path):
        pass
    first.communicate()
    assert not (tmp_path / LOCK_FILE).exists()


def test_another_process_with_the_dead_ones_number_does_not_hold_its_lock(tmp_path):
    write(tmp_path, started=psutil.Process().create_time() - 60)
    with hold(tmp_path):
        pass
    write(tmp_path)
    with (
        pytest.raises(InputError, match=r"process \d+ has worked there since 2026.* \(llgbm train\); wait for it, or choose another"),
        hold(tmp_path),
    ):
        pass


def test_the_lock_of_another_machine_is_respected(tmp_path):
    write(tmp_path, host="elsewhere", pid=1)
    message = rf"process 1 on elsewhere has worked there since .*; wait for it, or delete {tmp_path / LOCK_FILE} if it is gone"
    with pytest.raises(InputError, match=message), hold(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_torn_lock_is_taken_over(tmp_path, torn):
    (tmp_path / LOCK_FILE).write_text(torn)
    with hold(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "new"):
        raise KeyError
    assert not (tmp_path / "new").exists()
    with hold(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_of_many_who_want_it_at_once_one_has_it(tmp_path):
    write(tmp_path, pid=2**22 + 1)  # nobody's
    inside, most, refused, gate = [0], [0], [], threading.Barrier(8)

    def work() -> None:
        gate.wait()
        try:
            with hold(tmp_path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.02)
                inside[0] -= 1
        except InputError as error:
            refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
