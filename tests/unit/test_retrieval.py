"""Retrieval orders as numpy does; merging gives PEFT's own numbers, and the product the dense sum."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import save_file
from tiny import peft_adapter, tiny_model
from tolerance import assert_near

from llgbm import retrieval
from llgbm.cli import main
from llgbm.delta import DeltaCache
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.merging import MERGE_METHODS, AdapterMerger
from llgbm.lora.peft_io import read_adapter, read_adapters, target_shapes, write_adapter
from llgbm.retrieval import AdapterIndex
from llgbm.zoo.base import load_base

WEIGHTS = [0.7, -0.4, 0.5]
DENSITY = {name: 0.5 for name, method in MERGE_METHODS.items() if "density" in method.takes}


class MemoryCache(DeltaCache):
    """A cache whose deltas never were on disk: thousands of synced files would only slow the test."""

    def __init__(self, folder: Path, deltas: dict[str, np.ndarray]) -> None:
        super().__init__(folder)
        self.deltas = deltas
        self.manifest["adapters"].update({path: {"sha256": path} for path in deltas})

    def get_all_deltas(self) -> dict[str, np.ndarray]:
        return self.deltas


@pytest.fixture(scope="module")
def thousands(tmp_path_factory: pytest.TempPathFactory) -> MemoryCache:
    rows = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)
    return MemoryCache(tmp_path_factory.mktemp("none"), {f"adapter{i}": row for i, row in enumerate(rows)})


def _cosines(cache: DeltaCache, query: np.ndarray) -> np.ndarray:
    rows = np.stack(list(cache.get_all_deltas().values())).astype(np.float64)
    return rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)


@pytest.mark.numeric
def test_exact_search_orders_as_numpy(thousands: MemoryCache) -> None:
    index, query = AdapterIndex(thousands), np.random.default_rng(1).standard_normal(32) * 7
    cosines = _cosines(thousands, query)
    order = np.argsort(-cosines)
    for k in (1, 5, 2000, 5000):
        hits = index.search(query, k)
        assert [path for path, _ in hits] == [f"adapter{i}" for i in order[:k]]
        assert_near([cosine for _, cosine in hits], cosines[order[:k]], scale=1, length=32, depth=2)  # unit rows, their product


def test_approximate_search_finds_most(thousands: MemoryCache) -> None:
    exact, graph = AdapterIndex(thousands), AdapterIndex(thousands, approximate=True)
    queries = np.random.default_rng(2).standard_normal((20, 32))
    found = [len(dict(exact.search(q, 10)).keys() & dict(graph.search(q, 10)).keys()) for q in queries]
    assert sum(found) >= 0.9 * 200


@pytest.mark.parametrize("approximate", [False, True])
def test_reload_equals_save(tmp_path: Path, approximate: bool) -> None:
    cache = DeltaCache(tmp_path / "cache")
    cache.save_deltas({f"a{i}": (f"key{i}", np.eye(3)[i % 3] + i) for i in range(5)})
    index = AdapterIndex(tmp_path / "cache", approximate=approximate)
    index.save(tmp_path / "index")
    again = AdapterIndex.load(tmp_path / "index", cache)
    query = np.array([1.0, 2.0, -1.0])
    assert again.search(query, 4) == index.search(query, 4)
    assert (again.paths, again.dim, again.cache_hash) == (index.paths, 3, index.cache_hash)
    assert {path.name for path in (tmp_path / "index").iterdir()} == {"index.faiss", "index.json"}


@pytest.mark.numeric
def test_deltas_with_layers_are_flattened_and_zero_ones_come_with_cosine_zero(tmp_path: Path) -> None:
    cache = DeltaCache(tmp_path)
    cache.save_deltas({"same": ("k0", np.ones((2, 3))), "zero": ("k1", np.zeros((2, 3))), "opposite": ("k2", -np.ones((2, 3)))})
    hits = AdapterIndex(cache).search(np.full((2, 3), 5.0), 3)
    assert [path for path, _ in hits] == ["same", "zero", "opposite"]
    assert_near([cosine for _, cosine in hits], [1, 0, -1], length=6, depth=2)


def test_index_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no readable deltas; 'llgbm compute-deltas"):
        AdapterIndex(tmp_path / "nothing")
    cache = DeltaCache(tmp_path / "cache")
    cache.save_delta("a", np.ones(3))
    index = AdapterIndex(cache)
    with pytest.raises(InputError, match="k is 0; ask for at least 1"):
        index.search(np.ones(3), 0)
    with pytest.raises(InputError, match="the delta has 4 numbers, the index 3"):
        index.search(np.ones(4), 1)
    for bad in (np.zeros(3), np.array([1, np.nan, 0])):
        with pytest.raises(InputError, match="the delta is zero or not finite"):
            index.search(bad, 1)
    index.save(tmp_path / "index")
    cache.save_delta("b", np.ones(4))
    with pytest.raises(InputError, match=r"deltas of several sizes \(a has 3, b has 4\)"):
        AdapterIndex(cache)
    with pytest.raises(InputError, match="index of another version of the cache"):
        AdapterIndex.load(tmp_path / "index", cache)


def test_damaged_index_is_refused(tmp_path: Path) -> None:
    cache = DeltaCache(tmp_path / "cache")
    cache.save_delta("a", np.ones(3))
    AdapterIndex(cache).save(tmp_path)
    (tmp_path / "index.faiss").write_bytes((tmp_path / "index.faiss").read_bytes()[:-1])
    with pytest.raises(InputError, match="missing or not the bytes that were written"):
        AdapterIndex.load(tmp_path, cache)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(InputError, match=r"index\.json is not that of an adapter index"):
        AdapterIndex.load(tmp_path, cache)


def test_kept_index_is_used_until_the_cache_or_the_kind_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DeltaCache(tmp_path / "cache")
    cache.save_deltas({f"a{i}": (f"key{i}", np.eye(3)[i]) for i in range(3)})
    built = []
    build = retrieval._build
    monkeypatch.setattr(retrieval, "_build", lambda deltas, approximate: built.append(approximate) or build(deltas, approximate))
    for approximate, expected in ((False, [False]), (False, [False]), (True, [False, True]), (True, [False, True])):
        index = AdapterIndex.kept(tmp_path / "index", cache, approximate=approximate)
        assert (built, index.approximate) == (expected, approximate)
        assert index.search(np.array([0, 1.0, 0]), 1) == [("a1", 1.0)]
    cache.save_delta("b", np.array([0, 1.0, 0.1]))
    assert len(AdapterIndex.kept(tmp_path / "index", cache, approximate=True).paths) == 4
    assert built == [False, True]
    (tmp_path / "index" / "index.faiss").write_bytes(b"")
    assert len(AdapterIndex.kept(tmp_path / "index", cache, approximate=True).paths) == 4
    assert built == [False, True, True]


@pytest.mark.parametrize("approximate", [False, True])
def test_an_index_grows_with_its_cache_and_keeps_its_rows(tmp_path: Path, approximate: bool) -> None:
    rows = np.random.default_rng(5).standard_normal((60, 8)).astype(np.float32)
    cache = DeltaCache(tmp_path / "cache")
    cache.save_deltas({f"m{i}": (f"key{i}", row) for i, row in enumerate(rows[:40])})
    first = AdapterIndex.kept(tmp_path / "index", cache, approximate=approximate)
    cache.save_deltas({f"a{i}": (f"more{i}", row) for i, row in enumerate(rows[40:])})  # before the others by name
    grown = AdapterIndex.kept(tmp_path / "index", DeltaCache(tmp_path / "cache"), approximate=approximate)
    assert grown.paths[:40] == first.paths
    whole = AdapterIndex(cache, approximate=approximate)
    for row in rows:
        assert grown.search(row, 1) == whole.search(row, 1)
        assert grown.search(row, 1)[0][1] == pytest.approx(1)
    loaded = AdapterIndex.load(tmp_path / "index", cache)
    assert (loaded.paths, loaded.cache_hash) == (grown.paths, grown.cache_hash)
    cache.save_delta("m3", rows[0], key="another")
    changed = AdapterIndex.kept(tmp_path / "index", cache, approximate=approximate)
    assert {path for path, _ in changed.search(rows[0], 2)} == {"m0", "m3"}
    cache.save_delta("wide", np.ones(9))
    with pytest.raises(InputError, match=r"deltas of several sizes \(wide has 9, the index has 8\)"):
        AdapterIndex.kept(tmp_path / "index", cache, approximate=approximate)


def test_approximate_search_of_a_large_clustered_zoo_finds_nearly_all(tmp_path: Path) -> None:
    """Twenty thousand copies with noise of two hundred adapters, where neighbors are close together."""
    generator = np.random.default_rng(3)
    centers = generator.standard_normal((200, 32))
    rows = np.repeat(centers, 100, 0) + 0.3 * generator.standard_normal((20000, 32))
    cache = MemoryCache(tmp_path, {f"adapter{i}": row.astype(np.float32) for i, row in enumerate(rows)})
    exact, graph = AdapterIndex(cache), AdapterIndex(cache, approximate=True)
    queries = rows[::400] + 0.1 * generator.standard_normal((50, 32))
    found = [len(dict(exact.search(q, 10)).keys() & dict(graph.search(q, 10)).keys()) for q in queries]
    assert sum(found) >= 0.95 * 500


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def merged_by_peft(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Three adapters of one shape on disk, the merger, and a PEFT model that holds them as 0, 1, 2."""
    base, folder = tiny_model(request.param), tmp_path_factory.mktemp("alike")
    paths = [folder / str(k) for k in range(3)]
    for k, path in enumerate(paths):
        peft_adapter(base, path, seed=k, lora_alpha=4 + 4 * k)
    model = PeftModel.from_pretrained(base, paths[0], adapter_name="0")
    for k in (1, 2):
        model.load_adapter(paths[k], adapter_name=str(k))
    return AdapterMerger(target_shapes(tiny_model(request.param), "all-linear")), paths, model


def _peft_products(model: PeftModel, name: str) -> dict[str, torch.Tensor]:
    layers = {key.removeprefix("base_model.model."): m for key, m in model.named_modules() if name in getattr(m, "lora_A", {})}
    return {key: (m.scaling[name] * m.lora_B[name].weight @ m.lora_A[name].weight).detach() for key, m in layers.items()}


def _products(factors: LoRAFactors) -> dict[str, torch.Tensor]:
    return {name: scaling * b @ a for name, (a, b, scaling) in factors.adapter().items()}


@pytest.mark.numeric
@pytest.mark.parametrize("method", [name for name in MERGE_METHODS if name != "product"])
def test_equals_peft(merged_by_peft, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    merger, paths, model = merged_by_peft
    inject = model.base_model.inject_adapter  # draws the start of the new adapter, so the seed is set after it
    monkeypatch.setattr(model.base_model, "inject_adapter", lambda *args: (inject(*args), torch.manual_seed(5)))
    model.base_model.add_weighted_adapter(["0", "1", "2"], WEIGHTS, method, combination_type=method, density=DENSITY.get(method))
    merged = merger.merge(paths, WEIGHTS, method, density=DENSITY.get(method), seed=5)
    ours, theirs = _products(merged), _peft_products(model, method)
    assert ours.keys() == theirs.keys()
    for name, product in ours.items():
        largest = torch.linalg.matrix_norm(theirs[name], 2)  # singular vectors are rounded in its units
        assert_near(product, theirs[name], scale=largest, length=48, depth=4)  # products, their sum, its decomposition, its product
    assert set(merged.ranks.values()) == {(12 if method == "cat" else 4,)}


@pytest.mark.parametrize("method", DENSITY)
def test_pruning_is_seeded_and_leaves_the_global_generator(merged_by_peft, method: str) -> None:
    merger, paths, _ = merged_by_peft
    state = torch.random.get_rng_state()
    one, same, other = (merger.merge(paths, WEIGHTS, method, density=0.5, seed=s).content_hash() for s in (1, 1, 2))
    assert one == same
    assert (one != other) == method.startswith("dare")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert merger.merge(paths, WEIGHTS, method, density=1.0).n_adapters == 1


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterMerger, list[Path]]:
    base, folder = tiny_model(), tmp_path_factory.mktemp("mixed")
    paths = [folder / "a", folder / "b", folder / "c"]
    for k, (path, targets) in enumerate(zip(paths, (["q_proj", "v_proj"], ["v_proj"], "all-linear"), strict=True)):
        peft_adapter(base, path, seed=k, r=2 + k, target_modules=targets)
    return AdapterMerger(target_shapes(base, "all-linear")), paths


@pytest.mark.numeric
@pytest.mark.parametrize(("method", "rank"), [("product", None), ("cat", None), ("product", 3), ("svd", None), ("svd", 2)])
def test_mixed_ranks_and_targets_against_dense_float64(mixed, method: str, rank: int | None) -> None:
    merger, paths = mixed
    merged = merger.merge(paths, torch.tensor(WEIGHTS), method, rank=rank)
    dense: dict[str, torch.Tensor] = {}
    for path, weight in zip(paths, WEIGHTS, strict=True):
        for name, (a, b, scaling) in read_adapter(path).adapter().items():
            dense[name] = dense.get(name, 0) + weight * scaling * b.double() @ a.double()
    kept = rank or (4 if method == "svd" else None)
    for name, product in _products(merged).items():
        u, s, v = torch.linalg.svd(dense.pop(name), full_matrices=False)
        assert_near(product, (u[:, :kept] * s[:kept]) @ v[:kept], scale=s[0], length=9, depth=4)  # ranks 2 + 3 + 4; factors, product
    assert not dense


def test_merge_refusals(mixed, merged_by_peft) -> None:
    merger, paths = mixed
    cases = [
        ({"method": "tie"}, r"merge method 'tie' is unknown \(did you mean ties"),
        ({"method": "zzz"}, "merge method 'zzz' is unknown; methods: product, cat"),
        ({"method": "linear", "density": 0.5}, r"merge method linear takes no density \(0.5\)"),
        ({"method": "ties", "density": 0.5, "rank": 2}, r"ties takes no rank \(2\); leave it out, or use one of product, svd"),
        ({"method": "ties"}, "merge method ties needs a density above 0 and at most 1, .*it is None"),
        ({"method": "ties", "density": 1.5}, "it is 1.5"),
        ({"method": "linear"}, r"q_proj: the adapters have ranks 2, 0, 4 \(0: not a target\)"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            merger.merge(paths, WEIGHTS, **options)
    for weights in ([1.0], [1.0, 2.0, float("nan")]):
        with pytest.raises(InputError, match="for 3 adapters; give one finite weight per adapter"):
            merger.merge(paths, weights)
    with pytest.raises(InputError, match="no adapters to merge"):
        merger.merge(LoRAFactors({}, {}, {}, {}), [])
    with pytest.raises(InputError, match=r"q_proj is \(32, 32\) \(d_in, d_out\), the base has None; merge adapters of one base"):
        AdapterMerger({}).merge(read_adapters(paths), WEIGHTS)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four adapters of the micro base and their cache; 1 is 0 with a little noise."""
    folder, generator = tmp_path_factory.mktemp("zoo"), torch.Generator().manual_seed(0)
    shapes = target_shapes(load_base("micro").model, ["q_proj", "v_proj"])
    made = [LoRAFactors.zeros(shapes, 2, 4.0).map(lambda t: 0.1 * torch.randn(t.shape, generator=generator)) for _ in range(4)]
    made[1] = made[0].map(lambda t: t + 0.01 * torch.randn(t.shape, generator=generator))
    for k, factors in enumerate(made):
        write_adapter(folder / "adapters" / str(k), factors, base_name="micro")
    assert (
        main(["compute-deltas", "--checkpoint_dir", str(folder / "adapters"), "--output_dir", str(folder / "cache"), "--layers", "2,-1"])
        == 0
    )
    return folder / "adapters", folder / "cache"


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    assert main(["retrieve", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_command_by_adapter_and_by_delta(zoo: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters, cache = zoo
    hits = _json(capsys, "--adapter", adapters / "0", "--cache_dir", cache, "--k", 2)["hits"]
    assert Path(hits[0]["adapter"]).name == "1"
    assert hits[0]["cosine"] > 0.9 > hits[1]["cosine"]
    save_file({"delta": DeltaCache(cache).get_all_deltas()[str(adapters / "0")]}, tmp_path / "d.safetensors")
    found = _json(capsys, "--delta", tmp_path / "d.safetensors", "--cache_dir", cache, "--approximate")["hits"]
    assert [Path(hit["adapter"]).name for hit in found[:2]] == ["0", "1"]
    assert len(found) == 4
    kept = _json(capsys, "--delta", tmp_path / "d.safetensors", "--cache_dir", cache, "--index_dir", tmp_path / "index")["hits"]
    assert kept == _json(capsys, "--delta", tmp_path / "d.safetensors", "--cache_dir", cache, "--index_dir", tmp_path / "index")["hits"]
    assert main(["retrieve", "--delta", str(tmp_path / "d.safetensors"), "--cache_dir", str(cache)]) == 0
    assert "nearest of 4 adapters" in capsys.readouterr().out


def test_command_merges_the_hits(zoo: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters, cache = zoo
    query = ("--adapter", adapters / "0", "--cache_dir", cache, "--k", 1, "--merge", "product", "--output_dir", tmp_path / "merged")
    shown = _json(capsys, *query)
    assert shown["merged"]["weights"] == {str(adapters / "1"): 1.0}
    torch.testing.assert_close(_products(read_adapter(tmp_path / "merged")), _products(read_adapter(adapters / "1")))
    named = json.loads((tmp_path / "merged" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert (Path(named) / "config.json").is_file()  # where plain PEFT finds the base, whatever its name is here
    assert main(["retrieve", *map(str, query)]) == 0
    assert "product of 1 adapters" in capsys.readouterr().out


def test_command_refusals(zoo: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters, cache = zoo
    opposite, other = tmp_path / "opposite.safetensors", tmp_path / "other.safetensors"
    DeltaCache(tmp_path / "one").save_delta("a", np.ones(3))
    save_file({"delta": -np.ones(3, np.float32)}, opposite)
    save_file({"delat": np.ones(3)}, other)
    merge = ["--merge", "ties", "--output_dir", str(tmp_path / "m")]
    cases = [
        ([], "say what to look for: --adapter DIR or --delta FILE"),
        (["--delta", "x", "--merge", "ties"], "--merge METHOD and --output DIR belong together"),
        (["--delta", str(other), "--cache_dir", str(cache)], "cannot be read ('delta')"),
        (["--delta", str(tmp_path / "none"), "--cache_dir", str(cache)], "give a safetensors file with a tensor named delta"),
        (
            ["--adapter", str(adapters / "0"), "--cache_dir", str(cache), "--probe.probe_type", "math"],
            "holds deltas of another configuration",
        ),
        (["--delta", str(opposite), "--cache_dir", str(tmp_path / "one"), *merge], "no hit has a cosine above 0"),
    ]
    for arguments, message in cases:
        assert main(["retrieve", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_command_names_damaged_entries(zoo: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = DeltaCache(tmp_path / "c")
    cache.save_deltas({"a": ("a", np.ones(3)), "b": ("b", np.ones(3))})
    (tmp_path / "c" / "a.safetensors").write_bytes(b"")
    save_file({"delta": np.ones(3, np.float32)}, tmp_path / "d.safetensors")
    assert main(["retrieve", "--delta", str(tmp_path / "d.safetensors"), "--cache_dir", str(tmp_path / "c")]) == 0
    out, err = capsys.readouterr()
    assert "nearest of 1 adapters" in out
    assert "the delta of a is corrupt" in err
