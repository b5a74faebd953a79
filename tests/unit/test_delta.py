"""Deltas: equal to PEFT done correctly, free of leaks and padding, kept safely."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from tiny import peft_adapter, tiny_model
from tokenizers.normalizers import Lowercase
from tolerance import assert_near, depth

from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch
from llgbm.delta import (
    DeltaCache,
    DeltaEngine,
    DeltaOptions,
    aggregate,
    compute_adapter_delta,
    compute_base_activation,
    compute_deltas,
    engine_of_cache,
    token_states,
)
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter, target_shapes, write_adapter
from llgbm.probes import ProbeSet
from llgbm.reproducibility import compute_delta_cache_hash
from llgbm.zoo.base import Base, load_base

PROBES = ProbeSet("three", ("abc", "a longer probe, of another length", "12 34"))
WIDTHS = {"length": 512, "depth": depth(5)}
"""Of the micro base, rounded up."""
TARGETS = (["q_proj", "v_proj"], ["down_proj"], ["q_proj", "k_proj", "gate_proj"], "all-linear")


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("micro")


@pytest.fixture(scope="module")
def zoo(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters with different targets and ranks."""
    folder, generator = tmp_path_factory.mktemp("zoo"), torch.Generator().manual_seed(0)
    for k, targets in enumerate(TARGETS):
        factors = LoRAFactors.initialize(target_shapes(base.model, targets), 2 + k, 8.0, generator=generator)
        factors = factors.map(lambda t: torch.randn(t.shape, generator=generator) * 0.1)
        write_adapter(folder / "d" / f"t{k}" / "seed0", factors, base_name="micro")
    return sorted(path.parent for path in folder.rglob("adapter_config.json"))


def _reference(base: Base, path: Path | None) -> np.ndarray:
    """Load with PEFT into a fresh model, forward probe by probe, last layer, last token, mean."""
    model = load_base("micro").model
    if path is not None:
        model = PeftModel.from_pretrained(model, path)
    states = []
    for text in PROBES.texts:
        ids = base.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            states.append(model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1])
    return torch.stack(states).mean(0).numpy()


@pytest.mark.numeric
def test_equals_peft_for_a_heterogeneous_zoo_in_any_order(base: Base, zoo: list[Path]) -> None:
    engine = DeltaEngine(base, PROBES)
    expected = {path: _reference(base, path) - _reference(base, None) for path in zoo}
    for order in (zoo, zoo[::-1], [zoo[2], zoo[0], zoo[3], zoo[1]]):
        deltas = engine.deltas(LoRAFactors.stack([read_adapter(path) for path in order]))
        for path, delta in zip(order, deltas, strict=True):
            assert_near(delta, expected[path], scale=engine.base_states, **WIDTHS)
            assert np.abs(delta).max() > 0.01


def test_layers_and_tokens_from_the_command_line(zoo: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compute-deltas", "--checkpoint_dir", str(zoo[0].parents[2]), "--json"]
    assert main([*arguments, "--output_dir", str(tmp_path / "a"), "--layers", "all", "--tokens", "mean"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["neighbors"]) == {str(path) for path in zoo}
    assert {delta.shape for delta in DeltaCache(tmp_path / "a").get_all_deltas().values()} == {(6, 128)}
    assert main([*arguments, "--output_dir", str(tmp_path / "b"), "--layers", "0,-1", "--tokens", "last"]) == 0
    assert {delta.shape for delta in DeltaCache(tmp_path / "b").get_all_deltas().values()} == {(2, 128)}
    capsys.readouterr()
    for flag, value in (("layers", "top"), ("tokens", "first")):
        assert main([*arguments, "--output_dir", str(tmp_path / "c"), f"--{flag}", value]) == 2
        assert f"llgbm: {flag} '{value}' are unknown; give a number" in capsys.readouterr().err


def test_base_is_bit_identical_before_and_after(base: Base, zoo: list[Path]) -> None:
    ids = base.tokenizer("hello", return_tensors="pt").input_ids
    before = base.model(input_ids=ids).logits
    compute_adapter_delta(base, zoo[0], PROBES)
    assert torch.equal(base.model(input_ids=ids).logits, before)


def test_delta_of_nothing_is_exactly_zero(base: Base) -> None:
    factors = LoRAFactors.initialize(target_shapes(base.model, ["q_proj"]), 2, 4.0)
    assert not DeltaEngine(base, PROBES).deltas(factors).any()


@pytest.mark.numeric
@pytest.mark.parametrize("k", [1, 2, 6, 40])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_that_change_nothing_have_no_delta_however_many_share_a_forward(k: int, dtype: str) -> None:
    base = load_base("micro", dtype)
    shapes = target_shapes(base.model, "all-linear")
    zeros = LoRAFactors.stack([LoRAFactors.initialize(shapes, 4, 8.0, generator=torch.Generator().manual_seed(i)) for i in range(k)])
    engine = DeltaEngine(base, PROBES)
    assert not engine.deltas(zeros).any()
    assert not DeltaEngine(base, PROBES, DeltaOptions(layers="all", tokens="mean")).deltas(zeros).any()


@pytest.mark.numeric
def test_rounding_gives_no_direction_to_adapters_that_change_next_to_nothing(base: Base, zoo: list[Path]) -> None:
    """Six copies of an adapter, scaled down below any rounding of float32, change nothing."""
    factors = LoRAFactors.stack([read_adapter(zoo[0])] * 6)
    tiny = replace(factors, b={name: b * 1e-30 for name, b in factors.b.items()})
    assert all(b.any() for b in tiny.b.values())
    assert not DeltaEngine(base, PROBES).deltas(tiny).any()


def test_base_states_of_two_shapes_are_kept(base: Base, zoo: list[Path]) -> None:
    engine = DeltaEngine(base, PROBES)
    for k in (3, 2, 3, 1, 4):
        engine.deltas(LoRAFactors.stack([read_adapter(zoo[0])] * k))
    assert list(engine._bases) == [1, 4]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (DeltaOptions(), (128,)),
        (DeltaOptions(layers=2, tokens="mean", aggregation="max"), (128,)),
        (DeltaOptions(layers=(0, 3, -1)), (3, 128)),
        (DeltaOptions(layers="all", aggregation="none"), (6, 3, 128)),
        (DeltaOptions(aggregation="concat"), (384,)),
    ],
)
def test_shapes(base: Base, zoo: list[Path], options: DeltaOptions, shape: tuple[int, ...]) -> None:
    delta = compute_adapter_delta(base, zoo[0], PROBES, options)
    assert delta.shape == shape == compute_base_activation(base, PROBES, options).shape
    assert delta.dtype == np.float32


@pytest.mark.numeric
def test_layers_agree_with_each_other(base: Base, zoo: list[Path]) -> None:
    every = compute_adapter_delta(base, zoo[0], PROBES, DeltaOptions(layers="all"))
    assert not every[0].any()  # adapters do not touch the embeddings
    scale = DeltaEngine(base, PROBES).base_states
    assert_near(every[-1], compute_adapter_delta(base, zoo[0], PROBES), scale=scale, **WIDTHS)  # by itself it is cheaper, see last_layer
    np.testing.assert_array_equal(every[3], compute_adapter_delta(base, zoo[0], PROBES, DeltaOptions(layers=3)))


@pytest.mark.numeric
def test_chunks_do_not_change_the_result(base: Base, zoo: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    factors = LoRAFactors.stack([read_adapter(path) for path in zoo])
    monkeypatch.setattr("llgbm.memory.SHARE", 1e-9)
    small = DeltaEngine(base, PROBES)
    monkeypatch.undo()
    assert small.adapters_at_once == 1
    assert_near(small.deltas(factors), DeltaEngine(base, PROBES).deltas(factors), scale=small.base_states, **WIDTHS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_bases_give_float32_deltas_near_the_exact_ones(zoo: list[Path], base: Base, dtype: str) -> None:
    exact = compute_adapter_delta(base, zoo[0], PROBES)
    delta = compute_adapter_delta(load_base("micro", dtype), zoo[0], PROBES)
    assert delta.dtype == np.float32
    assert np.linalg.norm(delta - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_counts(side: str) -> None:
    hidden = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1] if side == "left" else [1, 1, 0, 0]])
    batch = TokenBatch(torch.ones(2, 4, dtype=torch.long), mask, torch.full((2, 4), -100))
    start = 6.0 if side == "left" else 4.0
    assert token_states(hidden, batch, -1).flatten().tolist() == [3, start + 1]
    assert token_states(hidden, batch, 0).flatten().tolist() == [0, start]
    assert token_states(hidden, batch, "mean").flatten().tolist() == [1.5, start + 0.5]


def test_response_tokens(base: Base, zoo: list[Path]) -> None:
    probes = ProbeSet("answered", ("ab", "abcd"), ("x", "yz"))
    assert compute_adapter_delta(base, zoo[0], probes, DeltaOptions(tokens="response")).any()
    with pytest.raises(InputError, match="probe set three has no responses"):
        DeltaEngine(base, PROBES, DeltaOptions(tokens="response"))


def test_refusals(base: Base) -> None:
    with pytest.raises(InputError, match=r"delta.token_idx 99 is outside a probe of 3 tokens"):
        DeltaEngine(base, PROBES, DeltaOptions(tokens=99))
    with pytest.raises(InputError, match=r"layer 9 does not exist"):
        DeltaEngine(base, PROBES, DeltaOptions(layers=9))
    with pytest.raises(InputError, match=r"probe.max_length is 4096, base micro reads at most 512 tokens"):
        DeltaEngine(base, PROBES, DeltaOptions(max_length=4096))
    with pytest.raises(InputError, match=r"delta.aggregation 'median' is unknown"):
        aggregate(torch.zeros(1, 1, 1), "median")
    empty = TokenBatch(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long), torch.full((1, 2), -100))
    with pytest.raises(InputError, match="a probe has no response token"):
        token_states(torch.zeros(1, 2, 1), empty, "response")


def test_long_probes_are_named_when_cut_and_refused_beyond_the_context(zoo: list[Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "long.txt").write_text("short\n" + "abcde" * 80 + "\n")
    arguments = ["compute-deltas", "--checkpoint_dir", str(zoo[0]), "--output_dir", str(tmp_path / "d"), "--probe.num_probes", "2"]
    assert main([*arguments, "--probe_type", str(tmp_path / "long.txt")]) == 0
    err = capsys.readouterr().err
    assert "llgbm: probe 'abcdeabcdeabcdeabcdeabcdeabcdeabcdeabcde' is cut: 400 tokens, probe.max_length is 256\n" in err
    assert "short" not in err
    assert main([*arguments[:-1], "1", "--probe_type", "math"]) == 2  # another configuration in that folder
    assert "1 of the 5 probes of math are used; --probe.num_probes 5 uses all\n" in capsys.readouterr().err
    (tmp_path / "long.txt").write_text("short\n" + "abcde" * 120 + "\n")
    assert main([*arguments, "--probe_type", str(tmp_path / "long.txt")]) == 2
    assert "takes 600 tokens, base micro reads at most 512; shorten it" in capsys.readouterr().err


def test_command_on_a_folder_of_another_bases_adapters(tmp_path: Path, capsys) -> None:
    for seed in (0, 1):
        peft_adapter(tiny_model(), tmp_path / "zoo" / str(seed), seed)
    assert main(["compute-deltas", "--checkpoint_dir", str(tmp_path / "zoo"), "--output_dir", str(tmp_path / "d")]) == 2
    out, err = capsys.readouterr()
    assert "0 computed, 0 reused, 2 failed" in out
    for seed in (0, 1):
        assert any(line.startswith("llgbm: ") and str(tmp_path / "zoo" / str(seed)) in line for line in err.splitlines())
    assert not DeltaCache(tmp_path / "d").get_all_deltas()


def test_key_names_everything_that_counts(base: Base) -> None:
    engines = [
        DeltaEngine(base, PROBES),
        DeltaEngine(base, ProbeSet("three", (*PROBES.texts[:2], "12 35"))),
        DeltaEngine(base, PROBES, DeltaOptions(max_length=8)),
        DeltaEngine(base, PROBES, DeltaOptions(layers=2)),
        DeltaEngine(base, PROBES, DeltaOptions(tokens=0)),
        DeltaEngine(base, PROBES, DeltaOptions(aggregation="max")),
        DeltaEngine(load_base("micro", "bfloat16"), PROBES),
    ]
    keys = {engine.key("adapter") for engine in engines} | {engines[0].key("another")}
    assert len(keys) == len(engines) + 1
    assert DeltaEngine(base, ProbeSet("renamed", PROBES.texts)).key("adapter") == engines[0].key("adapter")


def test_another_tokenizer_is_another_key(base: Base) -> None:
    other = load_base("micro")
    other.tokenizer.backend_tokenizer.normalizer = Lowercase()
    upper = ProbeSet("upper", ("AB",))
    assert other.content_hash == base.content_hash
    assert DeltaEngine(other, upper).key("adapter") != DeltaEngine(base, upper).key("adapter")
    assert DeltaEngine(other, PROBES).key("adapter") == DeltaEngine(base, PROBES).key("adapter")


def test_fresh_cache_and_round_trip(tmp_path: Path) -> None:
    cache = DeltaCache(tmp_path / "c")
    assert cache.manifest == {"adapters": {}, "config": {}, "format": 1}
    assert not (tmp_path / "c").exists()
    assert cache.get_base_activation() is None
    delta = np.arange(4, dtype=np.float64)
    cache.save_delta("some/adapter", delta)
    cache.save_base_activation(np.ones(4), {"layer": -1})
    again = DeltaCache(tmp_path / "c")
    np.testing.assert_array_equal(again.get_delta("some/adapter"), delta.astype(np.float32))
    np.testing.assert_array_equal(again.get_base_activation(), np.ones(4, np.float32))
    assert list(again.get_all_deltas()) == ["some/adapter"]
    assert again.get_delta("absent") is None
    assert again.get_delta("some/adapter", key="other") is None
    assert again.manifest["config"] == {"layer": -1}


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    one, two = DeltaCache(tmp_path), DeltaCache(tmp_path)
    one.save_delta("a", np.zeros(2))
    two.save_delta("b", np.ones(2))
    one.save_delta("c", np.ones(2))
    assert set(DeltaCache(tmp_path).get_all_deltas()) == {"a", "b", "c"}


def test_a_folder_counts_once_however_its_path_is_spelled(base: Base, zoo: list[Path], tmp_path: Path, monkeypatch) -> None:
    engine, cache = DeltaEngine(base, PROBES), DeltaCache(tmp_path / "c")
    compute_deltas(engine, zoo, cache)
    root = Path(os.path.commonpath(zoo))
    monkeypatch.chdir(root)
    relative = [str(path.relative_to(root)) for path in zoo]
    report = compute_deltas(engine, relative, cache)
    assert report.reused == relative
    assert set(DeltaCache(tmp_path / "c").get_all_deltas()) == set(relative)
    np.testing.assert_array_equal(cache.get_delta(zoo[1]), cache.get_delta(relative[1]))
    cache.save_deltas({f"./{relative[0]}": ("k", np.zeros(3)), str(zoo[0]): ("k", np.ones(3))})
    assert set(cache.get_all_deltas()) == {str(zoo[0]), *relative[1:]}


def test_the_base_is_kept_beside_the_deltas(base: Base, zoo: list[Path], tmp_path: Path) -> None:
    compute_deltas(DeltaEngine(base, PROBES), zoo[:1], DeltaCache(tmp_path))
    np.testing.assert_array_equal(DeltaCache(tmp_path).get_base_activation(), compute_base_activation(base, PROBES))


def test_other_configuration_and_foreign_manifest_are_refused(tmp_path: Path) -> None:
    DeltaCache(tmp_path).bind({"max_length": 256})
    with pytest.raises(InputError, match="holds deltas of another configuration \\(max_length is 256, asked for 8\\)"):
        DeltaCache(tmp_path).bind({"max_length": 8})
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="not the manifest of a delta cache"):
        DeltaCache(tmp_path)


def test_nan_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a delta with NaN"):
        DeltaCache(tmp_path).save_delta("a", np.array([np.nan]))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_damaged_entry_is_reported_and_computed_anew(base: Base, zoo: list[Path], tmp_path: Path, damage) -> None:
    engine = DeltaEngine(base, PROBES)
    compute_deltas(engine, zoo, DeltaCache(tmp_path))
    before = compute_delta_cache_hash(tmp_path)
    record = DeltaCache(tmp_path).manifest["adapters"][str(zoo[1])]
    path = tmp_path / record["file"]
    path.write_bytes(damage(path.read_bytes()))
    cache = DeltaCache(tmp_path)
    assert cache.get_delta(zoo[1]) is None
    assert "is corrupt" in cache.faults[0]
    report = compute_deltas(engine, zoo, DeltaCache(tmp_path))
    assert (len(report.corrupt), report.computed, len(report.reused)) == (1, [str(zoo[1])], 3)
    assert set(load_file(path)) == {"delta"}
    assert len(DeltaCache(tmp_path).get_all_deltas()) == 4
    assert compute_delta_cache_hash(tmp_path) == before  # the same adapters shared the forward, so the bits are the same


def test_adapter_whose_delta_is_not_finite_is_named_and_the_rest_is_stored(base: Base, zoo: list[Path], tmp_path: Path) -> None:
    wild = read_adapter(zoo[0]).map(lambda t: t * 1e30)
    write_adapter(tmp_path / "wild", wild, base_name="micro")
    report = compute_deltas(DeltaEngine(base, PROBES), [zoo[0], tmp_path / "wild", zoo[1]], DeltaCache(tmp_path / "c"))
    assert report.computed == [str(zoo[0]), str(zoo[1])]
    assert "its delta has NaN or infinite values in float32" in report.failed[str(tmp_path / "wild")]
    assert set(DeltaCache(tmp_path / "c").get_all_deltas()) == {str(zoo[0]), str(zoo[1])}


def test_an_equal_adapter_elsewhere_is_found_by_content(base: Base, zoo: list[Path], tmp_path: Path) -> None:
    engine = DeltaEngine(base, PROBES)
    compute_deltas(engine, zoo[:2], DeltaCache(tmp_path / "c"))
    shutil.copytree(zoo[0], tmp_path / "copy")
    report = compute_deltas(engine, [tmp_path / "copy"], DeltaCache(tmp_path / "c"))
    assert (report.computed, report.reused) == ([], [str(tmp_path / "copy")])
    deltas = DeltaCache(tmp_path / "c").get_all_deltas()
    np.testing.assert_array_equal(deltas[str(tmp_path / "copy")], deltas[str(zoo[0])])
    entry = tmp_path / "c" / DeltaCache(tmp_path / "c").manifest["adapters"][str(zoo[0])]["file"]
    entry.write_bytes(b"")
    compute_deltas(engine, [tmp_path / "copy"], DeltaCache(tmp_path / "c"))  # mends the file for both paths
    cache = DeltaCache(tmp_path / "c")
    assert len(cache.get_all_deltas()) == 3
    assert not cache.faults


def test_only_what_is_missing_is_computed(base: Base, zoo: list[Path], tmp_path: Path) -> None:
    engine, calls = DeltaEngine(base, PROBES), []
    first = compute_deltas(engine, zoo[:2], DeltaCache(tmp_path))
    second = compute_deltas(engine, zoo, DeltaCache(tmp_path), lambda done, total, **_: calls.append((done, total)))
    assert (len(first.computed), len(second.computed), len(second.reused)) == (2, 2, 2)
    assert calls[-1] == (4, 4)


def _spoiled(zoo: list[Path], folder: Path) -> None:
    """A folder with one good adapter and four bad ones."""
    for name in ("good", "nan", "truncated", "foreign", "empty"):
        shutil.copytree(zoo[0], folder / name)
    tensors = load_file(folder / "nan" / "adapter_model.safetensors")
    from safetensors.numpy import save_file

    first = next(iter(tensors))
    save_file({**tensors, first: np.full_like(tensors[first], np.nan)}, folder / "nan" / "adapter_model.safetensors")
    path = folder / "truncated" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    wide = {name: np.pad(tensor, ((0, 0), (0, 8))) if "lora_A" in name else tensor for name, tensor in tensors.items()}
    save_file(wide, folder / "foreign" / "adapter_model.safetensors")
    (folder / "empty" / "adapter_model.safetensors").unlink()


def test_command_names_bad_adapters_and_does_the_rest(zoo: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _spoiled(zoo, tmp_path / "adapters")
    arguments = ["compute-deltas", "--checkpoint_dir", str(tmp_path / "adapters"), "--output_dir", str(tmp_path / "deltas")]
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert (shown["computed"], shown["failed"]) == (1, 4)
    assert {Path(path).name for path in shown["failures"]} == {"nan", "truncated", "foreign", "empty"}
    for name in ("nan", "truncated", "foreign", "empty"):
        assert any(name in line and line.startswith("llgbm: ") for line in err.splitlines())
    assert main(arguments) == 2
    assert "0 computed, 1 reused, 4 failed" in capsys.readouterr().out


def test_command_on_an_empty_folder_and_on_another_configuration(zoo: list[Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "none").mkdir()
    assert main(["compute-deltas", "--checkpoint_dir", str(tmp_path / "none"), "--output_dir", str(tmp_path / "d")]) == 2
    assert "no adapters here" in capsys.readouterr().err
    arguments = ["compute-deltas", "--checkpoint_dir", str(zoo[0].parents[1]), "--output_dir", str(tmp_path / "d")]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--delta.layer_idx", "2"]) == 2
    assert "another configuration (layers is -1, asked for 2)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def many(base: Base, zoo: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 160 noisy copies of one adapter."""
    folder, generator = tmp_path_factory.mktemp("many"), torch.Generator().manual_seed(1)
    factors = LoRAFactors.stack([read_adapter(zoo[0])] * 160)
    factors = factors.map(lambda t: t + 0.01 * torch.randn(t.shape, generator=generator))
    for k in range(160):
        write_adapter(folder / f"{k:03}", factors, k, base_name="micro")
    return folder


def _start(folder: Path, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "llgbm", "compute-deltas", "--checkpoint_dir", str(folder), "--output_dir", str(cache), "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_two_commands_on_one_cache_at_once_lose_nothing(many: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    for path in sorted(many.iterdir())[80:]:  # half of the work is the same content at another place
        shutil.copytree(path, tmp_path / "half" / path.name)
    processes = [_start(folder, tmp_path / "deltas") for folder in (many, tmp_path / "half", many)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    cache = DeltaCache(tmp_path / "deltas")
    deltas = cache.get_all_deltas()
    assert not cache.faults
    assert len(deltas) == 240
    for path in sorted(many.iterdir())[80:]:
        np.testing.assert_array_equal(deltas[str(path)], deltas[str(tmp_path / "half" / path.name)])


TWO_PROCESSES = """
import sys
from pathlib import Path
from accelerate import PartialState
import llgbm.memory
from llgbm.delta import DeltaCache, DeltaEngine, compute_deltas
from llgbm.lora.peft_io import find_adapters
from llgbm.probes import ProbeSet
from llgbm.zoo.base import load_base

state = PartialState(cpu=True)
assert state.num_processes == int(sys.argv[3]), state.num_processes
llgbm.memory.SHARE = 1e-9  # one adapter a forward
engine = DeltaEngine(load_base("micro"), ProbeSet("three", ("abc", "a longer probe", "12")))
report = compute_deltas(engine, find_adapters(sys.argv[1]), DeltaCache(sys.argv[2]))
assert len(report.computed) == 4, report  # of all processes together
state.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_give_the_same_bits(zoo: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    for count in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", str(script)]
        done = subprocess.run(
            [*launch, str(zoo[0].parents[2]), str(tmp_path / f"cache{count}"), str(count)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert compute_delta_cache_hash(tmp_path / "cache1") == compute_delta_cache_hash(tmp_path / "cache2")


def test_a_cache_that_does_not_say_how_it_was_filled_makes_no_engine(base: Base, tmp_path: Path) -> None:
    cache = DeltaCache(tmp_path)
    cache.save_delta("a", np.ones(3))
    with pytest.raises(
        InputError, match=f"{tmp_path}: does not say how deltas were measured; run 'llgbm compute-deltas --deltas {tmp_path}'"
    ):
        engine_of_cache(ExperimentConfig(), cache, base=base)


def test_no_adapters_have_no_deltas(base: Base) -> None:
    engine = DeltaEngine(base, PROBES)
    for nothing in (LoRAFactors({}, {}, {}, {}), LoRAFactors.zeros(engine.functional.shapes, 2, 4.0, 0)):
        for measure in (engine.deltas, engine.behavior):
            with pytest.raises(InputError, match="no adapters to compare with the base; give at least one"):
                measure(nothing)
