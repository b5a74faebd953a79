"""Dockerfile and workflow: what they copy is there, what they call is a command of ours, and both are set to repeat themselves."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from llgbm.cli import COMMANDS, make_parser
from llgbm.studies.reproduce import repeatable

ROOT = Path(__file__).parents[2]
DOCKERFILE, WORKFLOW = ROOT / "Dockerfile", ROOT / ".github" / "workflows" / "reproduce.yml"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line and not line.startswith("#"))]


def steps() -> list[str]:
    """The commands of the workflow."""
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def of_ours() -> list[list[str]]:
    """The arguments of every call of `llgbm`, in the container too."""
    image = next(json.loads(rest) for name, rest in instructions() if name == "CMD")
    calls = [shlex.split(step) for step in steps()]
    native = [call[1:] for call in calls if call[0] == "llgbm"]
    inside = [call[call.index("llgbm") + 1 :] for call in calls if call[:2] == ["docker", "run"]]
    return [image, *native, *(call for call in inside if call)]


def test_every_call_is_a_command_that_the_command_line_takes() -> None:
    calls = of_ours()
    assert len(calls) == 4
    for call in calls:
        assert call[0] in COMMANDS
        make_parser(call[0]).parse_args(call[1:])
    assert [call[:4] for call in calls if "reproduce" in call] == [["reproduce", "lora", "--base", "micro"]] * 3


def test_records_that_are_compared_with_are_there() -> None:
    against = {call[call.index("--against") + 1] for call in of_ours() if "--against" in call}
    assert against == {"docs/lora_micro.json", "/native.json"}
    assert (ROOT / "docs/lora_micro.json").is_file()
    assert any("--record native.json" in step for step in steps())


def test_what_the_image_copies_is_there_and_enough_to_install() -> None:
    copied = [part for name, rest in instructions() if name == "COPY" for part in rest.split()[:-1]]
    assert not [part for part in copied if not (ROOT / part).exists()]
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "llgbm", "configs", "docs/lora_micro.json"} <= {*copied}
    assert next(rest for name, rest in instructions() if name == "FROM") == "python:3.12-slim"


def test_torch_comes_first_by_its_exact_version_and_all_by_the_constraints() -> None:
    installs = [part for name, rest in instructions() if name == "RUN" for part in rest.split("&&")]
    for commands in (installs, [step for step in steps() if step.startswith("pip")]):
        torch, rest = (command.strip() for command in commands)
        assert """grep '^torch==' constraints.txt""" in torch
        assert "--constraint constraints.txt" in rest


@pytest.mark.parametrize("where", ["image", "workflow"])
def test_processes_are_set_to_repeat_themselves_from_the_start(where: str) -> None:
    if where == "image":
        given = dict(part.split("=", 1) for part in shlex.split(next(rest for name, rest in instructions() if name == "ENV")))
    else:
        given = yaml.safe_load(WORKFLOW.read_text())["env"]
    wanted = repeatable(1, "cpu")
    for name in ("PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        assert given[name] == wanted[name]
