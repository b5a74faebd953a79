"""Artifacts copied to W&B where it is installed; refused in one sentence where it is not."""

import importlib.util
import json
from pathlib import Path

import pytest

from llgbm.cli import main
from llgbm.tracking.store import ArtifactStore

INSTALLED = importlib.util.find_spec("wandb") is not None


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "store")
    for name, inputs in (("zoo-mine", []), ("model-mine", ["zoo-mine"]), ("other", [])):
        (tmp_path / name).write_text(name)
        store.put(name, tmp_path / name, inputs=inputs, aliases=["best"])
    return store


@pytest.mark.skipif(INSTALLED, reason="wandb is installed")
def test_without_wandb_it_is_refused(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["artifacts", "mirror", "model-mine", "--store", str(store.folder)]) == 2
    assert capsys.readouterr().err == "llgbm: artifacts are mirrored by wandb, which is not installed; pip install 'llgbm[track]'\n"


@pytest.mark.skipif(not INSTALLED, reason="wandb is not installed; the extra track has it")
@pytest.mark.filterwarnings("ignore")
def test_a_version_goes_with_all_it_was_made_from(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-files"))
    (tmp_path / "wandb-files").mkdir()
    assert main(["artifacts", "mirror", "model-mine", "--store", str(store.folder), "--json"]) == 0
    assert [row["artifact"] for row in json.loads(capsys.readouterr().out)] == ["zoo-mine:v1", "model-mine:v1"]
    importlib.import_module("wandb").teardown()  # until then a run may not be written, and the next one is kept where this one is
    [written] = (tmp_path / "wandb-files").rglob("*.wandb")
    assert all(name in written.read_bytes() for name in (b"zoo-mine", b"model-mine", b"made_from"))
