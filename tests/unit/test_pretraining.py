"""Making the base anew: interrupted and gone on with, it is the same one."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from llgbm.errors import InputError
from llgbm.files import hash_file, read_json
from llgbm.zoo.micro import pretraining
from llgbm.zoo.micro.pretraining import UNFINISHED, PretrainConfig, pretrain

TINY = PretrainConfig(
    steps=6, documents_per_step=2, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_key_value_heads=1, log_interval=2
)


def interrupt(config: PretrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Pretrain until so many steps are done."""
    whole = pretraining.batches
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "batches", lambda *args: _stopping(whole(*args), steps))
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, folder)


def _stopping(batches, steps: int):
    yield from itertools.islice(batches, steps)
    raise KeyboardInterrupt


@pytest.mark.parametrize("hold_out", [0, 50])
def test_an_interrupted_pretraining_goes_on_to_the_same_bits(hold_out: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, hold_out=hold_out)
    pretrain(config, tmp_path / "whole")
    interrupt(config, tmp_path / "parts", monkeypatch, 3)
    assert (tmp_path / "parts" / UNFINISHED).is_file()
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    pretrain(config, tmp_path / "parts")
    assert hash_file(tmp_path / "whole" / "model.safetensors") == hash_file(tmp_path / "parts" / "model.safetensors")
    assert not (tmp_path / "parts" / UNFINISHED).exists()
    logs = [read_json(tmp_path / name / "pretraining.json")["log"] for name in ("whole", "parts")]
    whole, parts = ([{k: v for k, v in row.items() if k != "seconds"} for row in log] for log in logs)
    assert whole == parts
    assert len(whole) == 3


def test_an_interrupted_pretraining_of_another_configuration_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(TINY, tmp_path, monkeypatch, 3)
    with pytest.raises(InputError, match="of a base with another configuration"):
        pretrain(dataclasses.replace(TINY, learning_rate=1.0), tmp_path)
