"""Generators of the hub, from its cache as it lies on a disk without a network."""

from pathlib import Path

import pytest
import torch

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.hub import fetched, on_hub
from llgbm.lora.peft_io import adapter_hash, target_shapes
from llgbm.models.encoder import HashingEncoder
from llgbm.models.ensemble import load_generator
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.zoo.base import load_base

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """The hub's cache with two revisions of a generator."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--org--gen"
    (repository / "refs").mkdir(parents=True)
    for seed, (branch, commit) in enumerate(COMMITS.items()):
        (repository / "refs" / branch).write_text(commit)
        make_generator(seed).save_pretrained(repository / "snapshots" / commit)
    return cache


@pytest.fixture(autouse=True)
def offline(cache, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def make_generator(seed: int) -> LoRAGenerator:
    base, encoder = load_base("micro"), HashingEncoder()
    shapes = target_shapes(base.model, ["q_proj"])
    torch.manual_seed(seed)
    generator = LoRAGenerator(GeneratorSpec(shapes, 2, 4.0, encoder.dim, encoder_id=encoder.content_id, base=base.identity), encoder)
    for head in generator.heads:
        torch.nn.init.normal_(head.write_b.weight)
    return generator


@pytest.mark.parametrize(
    ("name", "revision", "seed"),
    [("org/gen", "v1", 1), ("org/gen", "main", 0), ("hf://org/gen", None, 0), ("hf://org/gen@v1", None, 1), ("org/gen", "b" * 40, 1)],
)
def test_a_revision_of_a_generator_is_read_from_the_cache(name, revision, seed):
    loaded = LoRAGenerator.from_pretrained(name, revision=revision)
    expected = make_generator(seed).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())


def test_commands_take_a_generator_of_the_hub(cache, tmp_path):
    said = ["generate", "--description", "Reverse it.", "--run"]
    assert main([*said, "hf://org/gen@v1", "--output", str(tmp_path / "of_hub")]) == 0
    assert main([*said, str(cache / "models--org--gen" / "snapshots" / COMMITS["v1"]), "--output", str(tmp_path / "here")]) == 0
    assert adapter_hash(tmp_path / "of_hub") == adapter_hash(tmp_path / "here")


def test_scores_of_a_generator_of_the_hub_go_to_outputs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--run", "hf://org/gen", "--backend", "lm-eval", "--tasks", "x", "--dry_run", "--json"]) == 0
    assert '"where": "outputs/eval_lm_main.json"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"),
    [("hf://org/nothing", "cached snapshot"), ("hf://org/gen@v9", "cached snapshot"), ("hf://a/b/c", "Repo id"), ("hf://", "Repo id")],
)
def test_what_the_hub_does_not_give_is_one_sentence_and_status_2(name, reason, tmp_path, capsys):
    with pytest.raises(
        InputError, match=rf"^{name}: cannot be had from the hub \(.*{reason}.*\); check the name, the revision and the network, or fetch"
    ):
        fetched(name)
    assert main(["generate", "--run", name, "--description", "Reverse it.", "--output", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_is_never_looked_for_on_the_hub():
    assert not on_hub("outputs/delta_multi")
    with pytest.raises(InputError, match="org/gen: no generator there"):
        load_generator("org/gen")
