"""Every wrong change of `mutants.py`, one by one in a copy of the package: its guarding test must fail on it, and pass without it.

python -m pytest tests/mutants -m slow            # about three minutes on one core
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
FAILED, PASSED = 1, 0
"""pytest's exit statuses; any other says that no test ran."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("llgbm", "configs", "tests/unit"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    gpu\n")  # no checks of shapes: a failure is the test's own
    return folder


def run_tests(copy: Path, *tests: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/unit/{test}" for test in tests)]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutants_piece_occurs_once(mutant: Mutant) -> None:
    found = (ROOT / "llgbm" / mutant.file).read_text().count(mutant.old)
    assert found == 1, f"{mutant.file}: {mutant.old!r} occurs {found} times; mend the mutant {mutant.name!r} in mutants.py"
    file, test = mutant.caught_by.split("::")
    assert re.search(rf"^def {test}\(", (ROOT / "tests" / "unit" / file).read_text(), re.M), mutant.caught_by


@pytest.mark.slow
def test_the_guards_pass_without_a_mutant(copy: Path) -> None:
    done = run_tests(copy, *dict.fromkeys(mutant.caught_by for mutant in MUTANTS))
    assert done.returncode == PASSED, done.stdout[-3000:] + done.stderr[-1000:]
    assert str(ROOT) not in run_where(copy)


def run_where(copy: Path) -> str:
    """Where the package that the copy's tests import lies."""
    command = [sys.executable, "-c", "import llgbm; print(llgbm.__path__[0])"]
    return subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_caught(copy: Path, mutant: Mutant) -> None:
    path = copy / "llgbm" / mutant.file
    whole = path.read_text()
    path.write_text(whole.replace(mutant.old, mutant.new))
    try:
        done = run_tests(copy, mutant.caught_by)
    finally:
        path.write_text(whole)
    assert done.returncode == FAILED, f"{mutant.name} went unnoticed by {mutant.caught_by}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
    assert re.search(r"^E .*(assert|DID NOT RAISE|not close|AssertionError|Mismatched)", done.stdout, re.M), done.stdout[-3000:]
