"""Ensembles: the mean of what members write, one generator to every caller, members of one kind only."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tolerance import assert_near

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.models.encoder import HashingEncoder
from llgbm.models.ensemble import GeneratorEnsemble, load_generator, mean_change, unite
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.zoo.base import load_base

SHAPES = {"layers.0.q_proj": (12, 12), "layers.0.up_proj": (12, 20), "layers.1.q_proj": (12, 12)}
ENCODER = HashingEncoder(64)
CHANGES = {"length": 20, "depth": 4}
"""Of weight changes: factors scaled, multiplied over at most 9 ranks, 20 numbers orthogonalized, multiplied again."""


def save_member(folder, seed: int, **changes) -> LoRAGenerator:
    torch.manual_seed(seed)
    spec = GeneratorSpec(**{"shapes": SHAPES, "rank": 3, "alpha": 6.0, "embedding_dim": 64, "trained_on": [f"task{seed}"], **changes})
    generator = LoRAGenerator(spec, ENCODER).eval()
    for head in generator.heads:
        torch.nn.init.normal_(head.write_b.weight)
    generator.save_pretrained(folder)
    return generator


def changes_of(factors: LoRAFactors) -> dict[str, torch.Tensor]:
    return {name: factors.scaling[name][:, None, None] * factors.b[name] @ factors.a[name] for name in factors.a}


@pytest.fixture
def members(tmp_path) -> list[LoRAGenerator]:
    return [save_member(tmp_path / str(seed), seed) for seed in range(3)]


@pytest.mark.numeric
def test_it_writes_the_best_adapter_of_its_rank_near_the_mean_of_its_members(members, tmp_path):
    ensemble = unite([tmp_path / "0", tmp_path / "1", tmp_path / "2"])
    ensemble._encoder = ENCODER
    asked = {"description": ["reverse it", "sort it"]}
    written = [member.generate(**asked) for member in members]
    exact, cut = changes_of(mean_change(written)), ensemble.generate(**asked)
    for name, change in changes_of(cut).items():
        mean = sum(changes_of(one)[name] for one in written) / 3
        assert_near(exact[name], mean, **CHANGES)
        values = torch.linalg.svdvals(mean)
        assert_near((change - mean).norm(dim=(1, 2)), values[:, 3:].norm(dim=1), scale=values, **CHANGES)
        assert cut.a[name].shape[1] == 3
        assert cut.scaling[name].tolist() == [2.0, 2.0]


@pytest.mark.numeric
def test_members_alike_write_what_one_of_them_writes(tmp_path):
    alone = save_member(tmp_path / "one", 0)
    ensemble = unite([tmp_path / "one", tmp_path / "one"])
    ensemble._encoder = ENCODER
    for name, change in changes_of(ensemble.generate(description="reverse it")).items():
        expected = changes_of(alone.generate(description="reverse it"))[name]
        assert_near(change, expected, scale=torch.linalg.matrix_norm(expected, 2), **CHANGES)


def test_members_keep_their_regressions_and_how_far_each_is_trusted(tmp_path):
    for seed in range(2):
        member = save_member(tmp_path / str(seed), seed, slots=2, ridge=3)
        teachers = LoRAFactors.initialize(SHAPES, 3, 6.0, 5, torch.Generator().manual_seed(seed))
        for b in teachers.b.values():
            b.normal_()
        member.fit_start(teachers, list(torch.randn(5, 2, 64)), [0, 1, 2, 3, 4], 0.01)
        member.trust.fill_(0.5 * seed)
        member.save_pretrained(tmp_path / str(seed))
    ensemble = unite([tmp_path / "0", tmp_path / "1"])
    ensemble.save_pretrained(tmp_path / "all")
    again = load_generator(tmp_path / "all")
    assert [float(member.trust) for member in again.members] == [0.0, 0.5]
    one, other = (member.heads[0].directions for member in again.members)
    assert one.any()
    assert not torch.equal(one, other)


def test_saved_and_reloaded_it_is_the_same_generator(members, tmp_path, capsys):
    folders = [str(tmp_path / str(seed)) for seed in range(3)]
    assert main(["ensemble", "--checkpoints", *folders, "--output_dir", str(tmp_path / "all")]) == 0
    assert "3 generators as one; next: llgbm evaluate --run" in capsys.readouterr().out
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    assert main(["ensemble", "--run", *folders, "--output", str(tmp_path / "run")]) == 2
    assert "run: holds a run, with which an ensemble would be mixed up; give another folder" in capsys.readouterr().err
    again = load_generator(tmp_path / "all", ENCODER)
    assert isinstance(again, GeneratorEnsemble)
    assert not again.training
    assert again.spec.members == 3
    assert again.spec.trained_on == ["task0", "task1", "task2"]
    united = unite(folders)
    united._encoder = ENCODER
    one, two = (g.generate(prompts=["p", "q"]) for g in (united, again))
    assert all(torch.equal(x, y) for x, y in zip(one.tensors(), two.tensors(), strict=True))
    assert type(load_generator(folders[0], ENCODER)) is LoRAGenerator


def test_held_back_tasks_are_those_no_member_trained_on(tmp_path):
    save_member(tmp_path / "a", 0, trained_on=["x"], validated_on=["y", "z"])
    save_member(tmp_path / "b", 1, trained_on=["y"], validated_on=["x", "z"])
    spec = unite([tmp_path / "a", tmp_path / "b"]).spec
    assert (spec.trained_on, spec.validated_on) == (["x", "y"], ["z"])


def test_faults_are_named(members, tmp_path, capsys):
    assert main(["ensemble", "--checkpoints", str(tmp_path / "0"), "--output_dir", str(tmp_path / "all")]) == 2
    assert "1 generators given; an ensemble needs two or more" in capsys.readouterr().err
    here = load_base("micro").identity
    save_member(tmp_path / "elsewhere", 3, base=replace(here, name="/elsewhere", device="cuda"))
    save_member(tmp_path / "here", 4, base=here)
    unite([tmp_path / "elsewhere", tmp_path / "here"])
    save_member(tmp_path / "other", 3, base=replace(here, hash="else"))
    with pytest.raises(
        InputError, match=r"other: writes for micro \(float32, else\), .*here for micro \(float32, .*; give generators of one base"
    ):
        unite([tmp_path / "here", tmp_path / "other"])
    save_member(tmp_path / "other", 3, size="m")
    with pytest.raises(InputError, match=r"other: its size is not that of .*0; give generators of one kind"):
        unite([tmp_path / "0", tmp_path / "other"])
    unite([tmp_path / "0", tmp_path / "1"]).save_pretrained(tmp_path / "all")
    with pytest.raises(InputError, match="all: is an ensemble already"):
        unite([tmp_path / "all", tmp_path / "2"])
    weights = load_file(tmp_path / "all" / "model.safetensors")
    weights.pop("members.1.front.project.weight")
    save_file(weights, tmp_path / "all" / "model.safetensors")
    with pytest.raises(InputError, match=r"tensor members.1.front.project.weight is missing"):
        load_generator(tmp_path / "all", ENCODER)
