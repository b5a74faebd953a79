"""Embeddings of adapters: each equals what its definition says, and pictures come from what was saved."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerance import assert_near, depth
from training_world import build_world

from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaCache, DeltaEngine, DeltaOptions
from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.probes import ProbeSet
from llgbm.report import plots
from llgbm.report.embeddings import Labels, cosine_similarities, silhouette
from llgbm.report.plots import plot_delta_map, plot_layers, plot_silhouettes
from llgbm.studies import embeddings as views
from llgbm.studies.embeddings import AdapterViews, compute_views
from llgbm.zoo.base import load_base
from llgbm.zoo.folder import TeacherZoo

WIDTHS = {"length": 128, "depth": depth(2)}
"""Of the tiny base and its vocabulary."""
PROBES = ProbeSet("two", ("ab", "12 34"))
ANSWERED = ProbeSet("answered", ("ab", "cd"), ("x", "yz"))


@pytest.fixture(autouse=True)
def without_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed it compiles for half a minute."""
    monkeypatch.setattr(plots, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExperimentConfig]:
    folder = tmp_path_factory.mktemp("world")
    return folder, build_world(folder)


@pytest.fixture(scope="module")
def engine(world: tuple[Path, ExperimentConfig]) -> DeltaEngine:
    return DeltaEngine(load_base(world[1].model.name), PROBES)


@pytest.fixture(scope="module")
def factors(world: tuple[Path, ExperimentConfig]) -> LoRAFactors:
    zoo = TeacherZoo.load(world[1].checkpoint_folder)
    return zoo.factors(zoo.teachers)


@pytest.fixture(scope="module")
def compared(engine: DeltaEngine, factors: LoRAFactors) -> AdapterViews:
    paths = [str(k) for k in range(factors.n_adapters)]
    return compute_views(engine, paths, factors, engine.deltas(factors), ANSWERED)


@pytest.mark.numeric
def test_fingerprint_and_layers_are_cosines_of_the_engines_deltas(
    engine: DeltaEngine, factors: LoRAFactors, compared: AdapterViews
) -> None:
    whole = DeltaEngine(engine.base, PROBES, DeltaOptions(layers="all"))
    every = whole.deltas(factors)

    def assert_cosines(found: np.ndarray, layer: int) -> None:
        """The rounding of states turns a delta by as much as it is smaller than they are."""
        states, deltas = whole.base_states[layer].norm(dim=-1).numpy(), np.linalg.norm(every[:, layer], axis=-1)
        assert_near(found, cosine_similarities(every[:, layer]), scale=states.max() / deltas.min(), **WIDTHS)

    assert_cosines(compared.similarities["delta fingerprint"], -1)
    for layer in (1, 2):
        assert_cosines(compared.layer_similarities[layer], layer)
    assert not compared.layer_similarities[0].any()  # the embeddings do not change


@pytest.mark.numeric
def test_norms_are_relative_to_the_base(engine: DeltaEngine, factors: LoRAFactors, compared: AdapterViews) -> None:
    one = DeltaEngine(engine.base, PROBES, DeltaOptions(layers=2, aggregation="none"))
    expected = np.linalg.norm(one.deltas(factors), axis=-1) / one.base_states[0].norm(dim=-1).numpy()
    assert_near(compared.norms[:, 2], expected.mean(1), scale=1, **WIDTHS)  # in units of the base's states
    assert not compared.norms[:, 0].any()


@pytest.mark.numeric
def test_outputs_are_bhattacharyya_coefficients(engine: DeltaEngine, factors: LoRAFactors, compared: AdapterViews) -> None:
    predictions = engine.behavior(factors).predictions
    assert predictions is not None
    roots = predictions.log_probs.exp().sqrt().unflatten(0, (factors.n_adapters, 2))
    expected = torch.einsum("ipv,jpv->ij", roots, roots) / 2
    assert_near(compared.similarities["output distribution"], expected, scale=1, **WIDTHS)  # roundings of many tokens average out


@pytest.mark.numeric
def test_weight_change_does_not_depend_on_how_it_is_factored(engine: DeltaEngine, factors: LoRAFactors, compared: AdapterViews) -> None:
    other = LoRAFactors({n: 2 * a for n, a in factors.a.items()}, {n: b / 2 for n, b in factors.b.items()}, factors.scaling, factors.ranks)
    mixed = LoRAFactors.stack([factors.select([0]), other.select([0])])
    found = compute_views(engine, ["0", "1"], mixed, engine.deltas(mixed)).similarities
    assert_near(found["weight change BA"][0, 1], 1, length=24, depth=6)  # Grams over modules, roots, quotients
    assert found["weights A, B"][0, 1] < 0.999
    assert "trajectory" not in found
    assert_near(compared.similarities["trajectory"].diagonal(), np.ones(factors.n_adapters), length=24, depth=6)


def test_reload_equals_save(compared: AdapterViews, tmp_path: Path) -> None:
    compared.save(tmp_path / "v.safetensors")
    again = AdapterViews.load(tmp_path / "v.safetensors")
    assert again.paths == compared.paths
    assert list(again.similarities) == list(compared.similarities)
    for name, similar in compared.similarities.items():
        np.testing.assert_array_equal(again.similarities[name], similar)
    np.testing.assert_array_equal(again.norms, compared.norms)
    (tmp_path / "v.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as embeddings of adapters"):
        AdapterViews.load(tmp_path / "v.safetensors")


def test_silhouettes_by_domain_leave_mixtures_out() -> None:
    angles = np.array([0, 0.1, 1.5, 1.6, 0.8])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    similar = cosine_similarities(rows)
    labels = Labels(["a", "a", "b", "b", "a+b"], ["t", "u", "v", "w", "x"], ["seen"] * 4 + ["mixture"])
    found = labels.silhouettes(similar)
    assert found["task"] is None  # one adapter each
    assert found["domain"] == pytest.approx(silhouette(cosine_similarities(rows[:4]), list("aabb")))
    assert found["domain"] is not None
    assert found["domain"] > 0.9
    assert silhouette(similar, ["a"] * 5) is None


def test_command_draws_everything_once_from_saved_data(
    world: tuple[Path, ExperimentConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, base = world[1].checkpoint_folder, ["--model.name", world[1].model.name]
    assert main(["compute-deltas", "--checkpoint_dir", zoo, "--output_dir", str(tmp_path / "deltas"), *base, "--json"]) == 0
    draw = [
        "visualize",
        "--quiet",
        "--input_dir",
        str(tmp_path / "deltas"),
        "--checkpoint_dir",
        zoo,
        "--output_dir",
        str(tmp_path / "figures"),
    ]
    capsys.readouterr()
    assert main([*draw, *base]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert "output distribution" in out
    for name in ("delta_map", "delta_similarity", "delta_silhouettes", "delta_layers"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
        assert (tmp_path / "figures" / f"{name}.svg").exists()
    saved = json.loads((tmp_path / "figures" / "delta_silhouettes.json").read_text())
    assert saved["adapters"] == len(DeltaCache(tmp_path / "deltas").get_all_deltas())
    assert [row["embedding"] for row in saved["embeddings"]][:3] == ["delta fingerprint", "deltas of all layers", "trajectory"]
    monkeypatch.setattr(views, "compute_views", None)  # nothing to compute the second time
    assert main([*draw, *base]) == 0
    (tmp_path / "figures" / "delta_views.safetensors").write_bytes(b"")
    capsys.readouterr()
    assert main([*draw, *base]) == 0
    assert "the comparison with other embeddings is left out" in capsys.readouterr().err
    assert main([*draw, "--model.name", "micro"]) == 0
    assert "left out: cache" in (shown := capsys.readouterr().err)
    assert "belongs to a base with hash" in shown


def test_command_needs_three_deltas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DeltaCache(tmp_path).save_delta("a", np.ones(3))
    assert main(["visualize", "--input_dir", str(tmp_path), "--output_dir", str(tmp_path / "f")]) == 2
    assert "holds 1 deltas, a map needs at least 3" in capsys.readouterr().err


def test_views_of_many_adapters_are_evenly_spaced(
    world: tuple[Path, ExperimentConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, base = world[1].checkpoint_folder, ["--model.name", world[1].model.name]
    assert main(["compute-deltas", "--checkpoint_dir", zoo, "--output_dir", str(tmp_path / "d"), *base, "--json"]) == 0
    monkeypatch.setattr(views, "MAX_ADAPTERS", 3)
    found = views.views_of_cache(world[1], DeltaCache(tmp_path / "d"), "nowhere", tmp_path / "v.safetensors")
    assert found.paths == list(DeltaCache(tmp_path / "d").get_all_deltas())[::2]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries it compiles with
def test_umap_is_drawn_where_wanted_and_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("umap")
    monkeypatch.setattr(plots, "find_spec", find_spec)
    rows = np.random.default_rng(0).standard_normal((12, 4))
    drawn = []
    monkeypatch.setattr(plots, "_umap", lambda unit, seed, draw=plots._umap: drawn.append(draw(unit, seed)) or drawn[-1])
    for wanted in (False, True):
        plot_delta_map(rows, ["a"] * 12, ["seen"] * 12, tmp_path / f"{wanted}.png", with_umap=wanted)
    assert [points.shape for points in drawn] == [(12, 2)]
    assert np.isfinite(drawn[0]).all()


def test_plots_stand_missing_groups(tmp_path: Path) -> None:
    plot_silhouettes(
        [{"embedding": "x", "domain": None, "task": 0.5}, {"embedding": "y", "domain": None, "task": None}], tmp_path / "s.png"
    )
    plot_layers(np.ones((2, 3)), ["a", "b"], [{"domain": None, "task": None}] * 3, tmp_path / "l.png")
    assert (tmp_path / "l.svg").exists()
