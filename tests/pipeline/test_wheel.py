"""The wheel outside the repository: what it holds, and that its commands work from it alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def run(folder: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A Python module's command with the package from `folder` first, as pip's --target leaves it."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(ROOT, "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("hatchling, which builds the wheel, cannot be had here")
    assert built.returncode == 0, built.stderr
    wheel = next(folder.glob("llgbm-*.whl"))
    packed = run(ROOT, "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel), cwd=folder)
    assert packed.returncode == 0, packed.stderr
    return folder


@pytest.mark.slow
def test_a_wheel_holds_what_the_package_reads_and_little_else(installed: Path) -> None:
    wheel = next(installed.glob("llgbm-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("py.typed", "configs/delta_multi.yaml", "configs/studies/objectives.yaml", "zoo/micro/base/model.safetensors"):
        assert f"llgbm/{name}" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"llgbm"}
    assert wheel.stat().st_size < 5e6


@pytest.mark.slow
def test_its_commands_work_from_it_alone(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "site", "llgbm", "--version", cwd=tmp_path)
    assert (where.returncode, where.stdout) == (0, "llgbm 0.1.0\n")
    place = subprocess.run(
        [sys.executable, "-c", "import llgbm; print(llgbm.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed / "site")},
    )
    assert place.stdout.startswith(str(installed))
    printed = run(installed / "site", "llgbm", "train", "delta_only", "--print_config", cwd=tmp_path)
    assert yaml.safe_load(printed.stdout)["objective"]["trajectory"] == 1.0
    checked = run(installed / "site", "llgbm", "verify", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tasks = run(installed / "site", "llgbm", "zoo", "tasks", "--count", "3", cwd=tmp_path)
    assert "suite micro: 3 tasks" in tasks.stdout
    assert not list(tmp_path.iterdir())
