"""What the first process decides, reads or refuses goes to all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llgbm.errors import InputError
from llgbm.training.processes import from_first, tensors_from_first

BOTH = """
import json, sys
import torch
from accelerate import PartialState
from llgbm.errors import InputError
from llgbm.training.processes import from_first, tensors_from_first

state, said = PartialState(cpu=True), {}

def refuse():
    raise InputError("no such thing")

def break_down():
    raise RuntimeError("a fault")

said["decided"] = from_first(lambda: state.process_index + 7)
tensors = tensors_from_first(lambda: {"x": torch.full((2,), 5.0 + state.process_index), "n": torch.tensor(3)}, torch.device("cpu"))
said["read"] = {name: tensor.tolist() for name, tensor in tensors.items()}
for name, work in (("refused", refuse), ("broken", break_down)):
    try:
        from_first(work)
    except Exception as error:
        said[name] = [type(error).__name__, str(error)]
    with open(f"{sys.argv[1]}.{state.process_index}", "w") as file:
        json.dump(said, file)
"""


def test_one_process_does_its_own_work() -> None:
    assert from_first(lambda: 7) == 7
    assert tensors_from_first(lambda: {"x": torch.ones(2)}, torch.device("cpu"))["x"].tolist() == [1, 1]
    for fault in (InputError("no such thing"), RuntimeError("a fault")):

        def work(fault: Exception = fault) -> None:
            raise fault

        with pytest.raises(type(fault), match=str(fault)):
            from_first(work)


@pytest.mark.slow
def test_two_processes_get_what_the_first_says_and_its_refusal_but_not_its_failure(tmp_path: Path) -> None:
    """A failure is the first one's alone: it ends, and the launcher ends the other."""
    (tmp_path / "both.py").write_text(BOTH)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "both.py")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([*launch, str(tmp_path / "said")], capture_output=True, text=True, timeout=300, env=environment)
    first, second = (json.loads((tmp_path / f"said.{rank}").read_text()) for rank in (0, 1))
    assert first["decided"] == second["decided"] == 7, done.stderr[-2000:]
    assert first["read"] == second["read"] == {"x": [5, 5], "n": 3}
    assert first["refused"] == second["refused"] == ["InputError", "no such thing"]
    assert first["broken"] == ["RuntimeError", "a fault"]
    assert second.get("broken", ["RuntimeError", ""])[0] != "InputError"
