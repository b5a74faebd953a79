"""Adapters that stay on disk are selected as those in memory, and no more is held than was allowed."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from tolerance import assert_near, relative
from training_world import build_world

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import TENSOR_FILE, adapter_shapes, read_adapter, read_adapters, write_adapter
from llgbm.lora.stored import StoredFactors, parts_of
from llgbm.training.targets import TargetOptions, TeacherTargets
from llgbm.zoo.folder import TeacherZoo

SHAPES = {"layers.0.q_proj": (6, 4), "layers.0.down_proj": (5, 6)}
SIZE = 4 * 2 * (6 + 4 + 5 + 6)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder, generator = tmp_path_factory.mktemp("adapters"), torch.Generator().manual_seed(0)
    factors = LoRAFactors.initialize(SHAPES, 2, 4.0, 20, generator)
    for b in factors.b.values():
        b.normal_(generator=generator)
    for k in range(20):
        write_adapter(folder / str(k), factors, k, base_name="base")
    return [folder / str(k) for k in range(20)]


def test_selected_ones_equal_those_read_at_once(paths):
    stored, whole = StoredFactors(paths, "cpu", 3 * SIZE), read_adapters(paths)
    assert (stored.n_adapters, stored.shapes, stored.module_names) == (20, whole.shapes, whole.module_names)
    for chosen in ([7], [19, 0, 7], torch.tensor([3, 3])):
        for ours, theirs in zip(stored.select(chosen).tensors(), whole.select(chosen).tensors(), strict=True):
            assert torch.equal(ours, theirs)
        assert stored.kept_bytes <= 3 * SIZE
    assert torch.equal(torch.cat([part.b["layers.0.q_proj"] for part in parts_of(stored)]), whole.b["layers.0.q_proj"])


def test_the_ones_used_last_are_not_read_again(paths, monkeypatch):
    stored = StoredFactors(paths, "cpu", 3 * SIZE)
    stored.select([1, 2, 3])
    monkeypatch.setattr("llgbm.lora.stored.read_adapter", lambda path: pytest.fail(f"{path} was read again"))
    stored.select([3, 1, 2, 3])


def test_a_zoo_reads_at_once_what_fits_and_checks_all(tmp_path):
    zoo = TeacherZoo.load(build_world(tmp_path).checkpoint_folder)
    whole, stored = (zoo.open_factors(zoo.teachers, "cpu", size) for size in (1 << 30, 1 << 10))
    assert isinstance(whole, LoRAFactors)
    assert isinstance(stored, StoredFactors)
    for ours, theirs in zip(stored.select([1, 0]).tensors(), whole.select([1, 0]).tensors(), strict=True):
        assert torch.equal(ours, theirs)
    file = tmp_path / "zoo" / zoo.teachers[0].path / TENSOR_FILE
    file.write_bytes((tmp_path / "zoo" / zoo.teachers[1].path / TENSOR_FILE).read_bytes())
    for size in (1 << 30, 1 << 10):
        with pytest.raises(InputError, match="is not as it was trained"):
            TeacherZoo.load(tmp_path / "zoo").open_factors(zoo.teachers, "cpu", size)


def scale(teachers) -> dict[str, float]:
    targets = object.__new__(TeacherTargets)  # no base is run for these terms
    targets.teachers, targets.options = teachers, TargetOptions(frozenset({"norm", "variance"}), ())
    return targets._structural_scale()


@pytest.mark.numeric
def test_structural_scale_is_the_same_part_by_part(paths):
    whole, stored = scale(read_adapters(paths)), scale(StoredFactors(paths, "cpu", SIZE))
    assert stored == pytest.approx(whole, rel=relative(length=20, depth=4), abs=0)  # Grams or variances, over adapters
    spread = read_adapters(paths).b["layers.0.q_proj"].double().flatten(1).var(0).mean().sqrt().item()
    assert_near(whole["variance/layers.0.q_proj"], spread, length=20, depth=4)


@pytest.mark.numeric
@pytest.mark.parametrize("wide_first", [False, True])
def test_parts_of_different_ranks_have_the_structural_scale_of_all_together(paths, tmp_path, wide_first):
    generator = torch.Generator().manual_seed(1)
    factors = LoRAFactors.initialize(SHAPES, 3, 6.0, 20, generator)
    for k in range(20):
        write_adapter(tmp_path / str(k), factors.map(lambda x: torch.randn(x.shape, generator=generator)), k, base_name="base")
    wide = [tmp_path / str(k) for k in range(20)]
    order = [*wide, *paths] if wide_first else [*paths, *wide]
    by_part = scale(StoredFactors(order, "cpu", 0))
    for name, value in scale(read_adapters(order)).items():
        assert_near(torch.tensor(by_part[name]), value, length=40, depth=4)


def test_what_is_expected_is_read_beside_and_only_once(paths, monkeypatch):
    stored, whole, readers = StoredFactors(paths, "cpu", 3 * SIZE), read_adapters(paths), []

    def read(path: Path) -> LoRAFactors:
        readers.append((int(path.name), threading.current_thread() is threading.main_thread()))
        return read_adapter(path)

    monkeypatch.setattr("llgbm.lora.stored.read_adapter", read)
    stored.expect([4, 9])
    chosen = stored.select([9, 4, 5])
    assert sorted(readers) == [(4, False), (5, True), (9, False)]
    for ours, theirs in zip(chosen.tensors(), whole.select([9, 4, 5]).tensors(), strict=True):
        assert torch.equal(ours, theirs)
    stored.expect([4, 5])  # both are kept
    stored.expect([7])
    stored.expect([8])  # instead of it
    stored.select([8, 7])
    assert [index for index, _ in readers].count(8) == 1
    assert len(readers) in (5, 6)  # the seventh's reading may have begun before it was let go


def test_an_expected_adapter_that_is_broken_is_named_when_it_is_selected(paths, tmp_path):
    shutil.copytree(paths[0], tmp_path / "broken")
    stored = StoredFactors([*paths[:2], tmp_path / "broken"], "cpu", SIZE)
    file = tmp_path / "broken" / TENSOR_FILE
    file.write_bytes(file.read_bytes()[:-9])
    stored.expect([2, 1])
    stored.select([1])
    with pytest.raises(InputError, match=f"adapter {tmp_path / 'broken'}: {TENSOR_FILE} is truncated or broken"):
        stored.select([2])


def test_shapes_are_those_of_the_files_heads(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("llgbm.lora.peft_io.read_adapter", lambda path: pytest.fail(f"{path} was read whole"))
    assert adapter_shapes(paths[0]) == SHAPES
    (tmp_path / TENSOR_FILE).write_bytes((paths[0] / TENSOR_FILE).read_bytes()[:40])
    with pytest.raises(InputError, match="truncated or broken"):
        adapter_shapes(tmp_path)
