"""Every command that README and docs name exists, with its flags; every script and picture they name is there."""

import re
import shlex
from pathlib import Path

import pytest

from llgbm.cli import COMMANDS, make_parser
from llgbm.config import describe_fields
from llgbm.errors import InputError
from llgbm.studies.variants import load_study
from llgbm.study.config import describe_study

ROOT = Path(__file__).parents[2]
DOCS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9]*|\.\.\.")


def commands(text: str) -> list[str]:
    """What stands in code spans and code blocks from `llgbm` on; comments and pipes cut off, braces spelled out."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S)) + re.findall(r"^ {4,}(.*)$", text, re.M)
    found = [match[1] for span in spans if (match := re.match(r"(?:[A-Z]+=\S+ )*(llgbm [a-z].*)", " ".join(span.split())))]
    found = [re.split(r" #| \|", command)[0].strip() for command in found]
    return [re.sub(r"(\S*)\{([\d,]+)\}", lambda m: " ".join(m[1] + part for part in m[2].split(",")), command) for command in found]


def written() -> list[tuple[str, str]]:
    return [(name, command) for name in DOCS for command in dict.fromkeys(commands((ROOT / name).read_text()))]


def parse(command: str) -> None:
    """Parse with the command's own parser; InputError or KeyError when that cannot be."""
    name, *rest = shlex.split(command.replace("[", "").replace("]", ""))[1:]
    args = make_parser(name).parse_args(["all" if name in ("bench", "study") and PLACEHOLDER.fullmatch(part) else part for part in rest])
    if name == "ablate" and not PLACEHOLDER.fullmatch(args.study):
        study = load_study(args.study)
        unknown = [variant for variant in args.variants if variant not in study.variants]
        assert not unknown, f"study {study.name} has no variant {unknown[0]!r}"


@pytest.mark.parametrize(("name", "command"), written())
def test_every_command_in_the_docs_parses(name: str, command: str) -> None:
    spoken_of = "--" not in command  # not one to copy
    try:
        parse(command)
    except InputError as error:
        if not (spoken_of and "required" in str(error)):
            pytest.fail(f"{name}: {command!r}: {error}")


def test_commands_are_found_and_wrong_ones_are_noticed() -> None:
    text = "See `llgbm train\n  --seed S` and\n\n    TMPDIR=/x llgbm bench retrieve  # quick\n\n`llgbm ensemble --checkpoints g{0,1}`"
    assert commands(text) == ["llgbm train --seed S", "llgbm ensemble --checkpoints g0 g1", "llgbm bench retrieve"]
    for wrong in ("llgbm train --sed 1", "llgbm evaluate --checkpoint", "llgbm bench nothing"):
        with pytest.raises(InputError):
            parse(wrong)
    with pytest.raises(KeyError):
        parse("llgbm trian")
    with pytest.raises(AssertionError, match="has no variant 'neither'"):
        parse("llgbm ablate --study conditions --variants neither")


@pytest.mark.parametrize("name", DOCS)
def test_everything_the_docs_point_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    scripts = re.findall(r"python (scripts/\S+\.py)", text)
    assert all((ROOT / script).is_file() for script in scripts), scripts
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not ((ROOT / name).parent / link).exists()]
    assert not missing, missing


@pytest.mark.parametrize("entry", re.findall(r"^- (.*?)(?=^- |^#|\Z)", (ROOT / "docs/findings.md").read_text(), re.M | re.S))
def test_every_finding_has_its_command(entry: str) -> None:
    """In the entry itself, or in its section's introduction."""
    text = (ROOT / "docs/findings.md").read_text()
    section = next(part for part in re.split(r"^## ", text, flags=re.M) if entry in part)
    introduction = section.split("\n- ")[0]
    assert re.search(r"`(\w+=\S+ )?(llgbm |python scripts/|python -m pytest )", entry + introduction), entry[:100]


def test_the_fields_that_docs_set_exist() -> None:
    fields = describe_fields() | describe_study()
    named = {match for name in DOCS for match in re.findall(r"--((?:[a-z_]+\.)+[a-z_]+)", (ROOT / name).read_text())}
    assert named
    assert named <= fields.keys()
    assert set(COMMANDS) >= {command.split()[1] for _, command in written()}
