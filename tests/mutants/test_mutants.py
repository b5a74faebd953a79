"""Every wrong change of `mutants.py`, one by one in a copy of the package: its guarding test must fail on it, and pass without it.

python -m pytest tests/mutants            # with `-m "not slow"` only whether each still fits the code
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
FAILED, PASSED = 1, 0
"""pytest's exit statuses; any other says that no test ran."""


class Copy:
    """A copy of package and unit tests, and a process that runs tests in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "output.txt"
        for name in ("llgbm", "configs", "tests/unit"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
        (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    gpu\n")  # shapes go unchecked: a failure is the test's own
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("forks.py"))]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, *tests: str) -> tuple[int, str]:
        """pytest's exit status and what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(self.output, *(f"tests/unit/{test}" for test in tests), sep="\t", file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline()), self.output.read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Iterator[Copy]:
    copy = Copy(tmp_path_factory.mktemp("copy"))
    yield copy
    copy.process.communicate()
    assert copy.process.returncode == 0


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutants_piece_occurs_once(mutant: Mutant) -> None:
    found = (ROOT / "llgbm" / mutant.file).read_text().count(mutant.old)
    assert found == 1, f"{mutant.file}: {mutant.old!r} occurs {found} times; mend the mutant {mutant.name!r} in mutants.py"
    file, test = mutant.caught_by.split("::")
    assert re.search(rf"^def {test}\(", (ROOT / "tests" / "unit" / file).read_text(), re.M), mutant.caught_by


@pytest.mark.slow
def test_the_guards_pass_without_a_mutant(copy: Copy) -> None:
    status, output = copy.run(*dict.fromkeys(mutant.caught_by for mutant in MUTANTS))
    assert status == PASSED, output[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_caught(copy: Copy, mutant: Mutant) -> None:
    path = copy.folder / "llgbm" / mutant.file
    whole = path.read_text()
    path.write_text(whole.replace(mutant.old, mutant.new))
    try:
        status, output = copy.run(mutant.caught_by)
    finally:
        path.write_text(whole)
    assert status == FAILED, f"{mutant.name} went unnoticed by {mutant.caught_by}:\n{output[-3000:]}"
    assert re.search(r"^E .*([Aa]ssert|DID NOT RAISE|not close|Mismatched|InputError: )", output, re.M), output[-3000:]
