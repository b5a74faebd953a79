"""Checkpoints on disk: whole or not one, and a state of another shape is named."""

import json
from pathlib import Path

import pytest
import torch

from llgbm.errors import InputError
from llgbm.files import read_json, write_json
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.training.checkpoints import MARKER, STATE_FILE, complete_steps, is_complete, is_origin, load_best, read_state, save_checkpoint

STATE = {"step": 3, "config_hash": "c", "zoo_hash": "z"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network = LoRAGenerator(GeneratorSpec({"layers.0.q_proj": (4, 4)}, 1, 1.0, 8))
    save_checkpoint(tmp_path / "step_3", network, torch.optim.AdamW(network.parameters()), STATE)
    return tmp_path / "step_3"


def test_a_saved_checkpoint_is_whole(saved: Path) -> None:
    assert is_complete(saved)
    assert complete_steps(saved.parent) == [3]
    assert read_state(saved) == STATE
    assert is_origin(saved.parent, {"config_hash": "c", "zoo_hash": "z"})
    assert not is_origin(saved.parent, {"config_hash": "c", "zoo_hash": "other"})


@pytest.mark.parametrize("content", ["[]", '"whole"', "{}", "", '{"model.safetensors": 3}', "null"])
def test_a_marker_of_another_shape_marks_nothing(saved: Path, content: str) -> None:
    (saved / MARKER).write_text(content)
    assert not is_complete(saved)
    assert complete_steps(saved.parent) == []
    network = LoRAGenerator.from_pretrained(saved)
    with pytest.raises(InputError, match=r"step_3: the best checkpoint is not whole any more; train again with --overwrite"):
        load_best(saved, network)


def test_a_marker_must_list_every_file(saved: Path) -> None:
    hashes = read_json(saved / MARKER)
    for name in hashes:
        write_json(saved / MARKER, {key: digest for key, digest in hashes.items() if key != name})
        assert not is_complete(saved), name
    write_json(saved / MARKER, {**hashes, "elsewhere.json": "0"})
    assert not is_complete(saved)


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ([], r"the whole must be a mapping, found \[\]"),
        ({**STATE, "step": "3"}, "step must be an integer, found '3'"),
        ({**STATE, "step": -1}, "step must be at least 0, found -1"),
        ({**STATE, "zoo_hash": None}, "zoo_hash must be a string, found None"),
        ({"step": 3, "config_hash": "c"}, "zoo_hash is missing"),
    ],
)
def test_a_state_of_another_shape_is_named(saved: Path, state: object, fault: str) -> None:
    (saved / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(InputError, match=rf"{STATE_FILE}: not the state of a checkpoint, remove its folder.*{fault}"):
        read_state(saved)
