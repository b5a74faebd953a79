"""Studies: every cell a run, resumable, summarized over seeds and paired by task."""

import dataclasses
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_world import build_world

from llgbm.cli import main
from llgbm.cli.ablate import print_study
from llgbm.config import preset_folder
from llgbm.errors import InputError
from llgbm.evaluation.statistics import replicates
from llgbm.files import write_json
from llgbm.report.plots_study import RIVALS, plot_study
from llgbm.studies import cells
from llgbm.studies.ablation import run_study, summarize
from llgbm.studies.cells import CellWorker
from llgbm.studies.variants import Study, cell_name, load_study, study_names
from llgbm.tracking.lock import BusyError, hold
from llgbm.zoo.folder import TeacherZoo

STUDY = {
    "config": "smoke",
    "seeds": [0, 1],
    "splits": ["seen"],
    "reference": "both",
    "set": {"lora": {"rank": 2, "alpha": 4}, "training": {"total_steps": 3, "validation_fraction": 0.2}},
    "variants": {"both": {}, "product only": {"objective": {"kl": 0}}},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_world(folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


@pytest.fixture(scope="module")
def overrides(world: Path) -> dict:
    return {"model.name": str(world / "base"), "checkpoint_folder": str(world / "zoo")}


@pytest.fixture(scope="module")
def result(world: Path, overrides: dict) -> dict:
    return run_study(load_study(str(world / "tiny.yaml")), world / "studies", overrides)


def test_every_cell_is_a_run_with_its_own_objective_and_seed(world: Path, result: dict) -> None:
    folder = world / "studies" / "tiny"
    for cell in result["cells"]:
        config = yaml.safe_load((folder / cell["folder"] / "config.yaml").read_text())
        assert config["seed"] == cell["seed"]
        assert config["objective"]["kl"] == (1.0 if cell["variant"] == "both" else 0.0)
        assert config["training"]["total_steps"] == 3
    assert len({cell["config_hash"] for cell in result["cells"]}) == 4
    assert json.loads((folder / "study.json").read_text()) == result


def test_rows_are_means_and_intervals_over_the_cells_evaluations(world: Path, result: dict) -> None:
    folder = world / "studies" / "tiny"
    for row in result["rows"]:
        found = [
            json.loads((folder / cell_name(row["variant"], seed) / "eval_main.json").read_text())["splits"][row["split"]][row["method"]]
            for seed in (0, 1)
        ]
        expected = replicates([one["score"] for one in found])
        assert (row["score"], row["low"], row["high"], row["n_seeds"]) == (expected.mean, expected.low, expected.high, 2)
    assert {(row["variant"], row["method"]) for row in result["rows"]} >= {("both", "generated"), ("product only", "teacher")}


def test_finished_cells_are_not_run_again_and_another_setting_is(world: Path, overrides: dict, result: dict, monkeypatch) -> None:
    study, trained = load_study(str(world / "tiny.yaml")), []
    monkeypatch.setattr(cells, "train_generator", lambda config, **_: trained.append(config.experiment_name))
    assert run_study(study, world / "studies", overrides) == result
    assert not trained
    with pytest.raises(InputError):  # nothing is evaluated here: no run was trained
        run_study(study, world / "elsewhere", overrides, ["both"], [5])
    assert trained == ["both-seed5"]


def test_seeds_that_are_run_one_by_one_are_summarized_together(world: Path, overrides: dict, result: dict) -> None:
    study = load_study(str(world / "tiny.yaml"))
    for seed in study.seeds:
        assert run_study(study, world / "studies", overrides, seeds=[seed]) == result


def test_a_cell_that_another_process_works_at_is_left_to_it_and_the_others_are_finished(
    world: Path, overrides: dict, result: dict, tmp_path: Path
) -> None:
    study, seen = load_study(str(world / "tiny.yaml")), []
    busy = tmp_path / "tiny" / cell_name("both", 0)
    with hold(busy), pytest.raises(BusyError, match=f"{busy}: process .* has worked there"):
        run_study(study, tmp_path, overrides, ["both"], progress=lambda done, total, **figures: seen.append((done, total, figures)))
    done = {path.parent.name for path in tmp_path.rglob("eval_main.json")}
    assert done == {cell_name("both", 1)}
    assert (seen[0][:2], seen[-1][:2]) == ((0, 6), (3, 6))
    assert {figures.get("cell") for _, _, figures in seen} == {None, "both/1"}


def test_a_worker_with_another_zoo_is_refused(world: Path) -> None:
    zoo = str(world / "zoo")
    study, content = load_study(str(world / "tiny.yaml")), TeacherZoo.load(zoo).content_hash
    assert CellWorker(study, {zoo: content}).identity
    message = f"{zoo}: the worker on {socket.gethostname()} has another zoo there; give every node the same one"
    with pytest.raises(InputError, match=message):
        CellWorker(study, {zoo: "another"})


def write_cells(folder: Path, right: dict[tuple[str, int], float], own_tasks: bool = False) -> dict[tuple[str, int], float]:
    """Evaluations of cells whose answers are right at random with these shares, on tasks of the seed's own if asked; the shares found."""
    rng, means = np.random.default_rng(0), {}
    for (variant, seed), share in right.items():
        exact = (rng.random((12, 20)) < share).astype(int)
        means[variant, seed], prefix = exact.mean(), f"seed{seed}-" if own_tasks else ""
        tasks = [
            {
                "split": "seen",
                "task": f"{prefix}{i}",
                "attributes": {"operation": str(i // 2)},
                "exact": {"generated": "".join(map(str, row))},
            }
            for i, row in enumerate(exact)
        ]
        summary = {"score": exact.mean(), "nll": 0.0, "gain_recovered": None, "n_tasks": 12}
        document = {"splits": {"seen": {"generated": summary}}, "tasks": tasks, "metrics": ["exact_match"], "base": {}, "config_hash": "x"}
        (folder / cell_name(variant, seed)).mkdir()
        (folder / cell_name(variant, seed) / "eval_main.json").write_text(json.dumps(document))
    return means


def test_lines_are_compared_at_each_number_and_drawn(tmp_path: Path) -> None:
    right = {("a, 5", 0): 0.2, ("b, 5", 0): 0.1, ("a, 10", 0): 0.9, ("b, 10", 0): 0.4, ("b, 20", 0): 0.5}
    study = Study("made", "smoke", {name: {} for name, _ in right}, reference="a", methods=["generated"], axis="tasks")
    means = write_cells(tmp_path, right)
    result = summarize(study, tmp_path, list(right))
    found = {(row["variant"], row["other"]): row["difference"] for row in result["comparisons"]}
    assert found == {(f"a, {n}", f"b, {n}"): pytest.approx(means[f"a, {n}", 0] - means[f"b, {n}", 0]) for n in (5, 10)}
    plot_study(result, tmp_path / "study.png")
    drawn = (tmp_path / "study.svg").read_text()
    assert all(f">{label}<" in drawn or f"<!-- {label} -->" in drawn for label in ("a", "b", "tasks", "20"))


def test_studies_are_drawn_side_by_side(tmp_path: Path, capsys) -> None:
    for name, methods in (("few", ["generated", "ridge"]), ("other", ["generated", "soft_prompt", "ridge"])):
        study = Study(name, "smoke", {"a, 5": {}, "a, 10": {}}, methods=methods, axis="tasks", title="Two tasks" if name == "few" else None)
        rows = [
            {"variant": variant, "split": "seen", "method": method, "score": 0.5, "low": None, "high": None}
            for variant in study.variants
            for method in methods
        ]
        write_json(tmp_path / name / "study.json", {"study": dataclasses.asdict(study), "rows": rows})
    folders = [str(tmp_path / name) for name in ("few", "other")]
    asked = ["visualize", "--type", "studies", "--study", *folders, "--output", str(tmp_path)]
    assert main([*asked, "--split", "seen"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'studies.png'}\n"
    drawn = (tmp_path / "studies.svg").read_text()
    assert all(f"<!-- {label} -->" in drawn for label in ("Two tasks: seen", "other: seen", "ridge", "soft_prompt", "tasks"))
    assert drawn.count(f"stroke: {RIVALS[0].lower()}") >= 2, "ridge has one color in both"
    assert main(asked) == 2
    assert "no figures of split 'unseen_combination'; it has seen" in capsys.readouterr().err
    for changed, message in (
        ({"rows": []}, "not the result of 'llgbm ablate'"),
        ({"study": {"name": "x"}, "rows": []}, "study.json: config is missing"),
        (
            {"study": dataclasses.asdict(Study("x", "smoke", {"a": {}})), "rows": []},
            "the study has no axis, so no curves; its own picture is ",
        ),
    ):
        write_json(tmp_path / "few" / "study.json", changed)
        assert main(asked) == 2
        assert message in capsys.readouterr().err


def test_folds_are_a_result_together_and_methods_are_compared(tmp_path: Path) -> None:
    folds, methods = {"fold 0": {}, "fold 1": {}}, ["generated", "ridge"]
    study = Study("made", "smoke", folds, methods=methods, together=True)
    right = {(name, seed): 0.8 for name in folds for seed in (0, 1)}
    means = write_cells(tmp_path, right)
    for cell in right:
        path = tmp_path / cell_name(*cell) / "eval_main.json"
        document = json.loads(path.read_text())
        document["splits"]["seen"]["ridge"] = {**document["splits"]["seen"]["generated"], "score": 0.0}
        for row in document["tasks"]:
            row["exact"]["ridge"] = "0" * 20
        path.write_text(json.dumps(document))
    result = summarize(study, tmp_path, list(right))
    whole = next(row for row in result["rows"] if row["variant"] == "mean of 2" and row["method"] == "generated")
    of_folds = [np.mean([means[name, seed] for seed in (0, 1)]) for name in folds]
    expected = replicates(of_folds)
    assert (whole["score"], whole["low"], whole["high"], whole["n_seeds"]) == (expected.mean, expected.low, expected.high, 2)
    found = {row["variant"]: row for row in result["method_comparisons"]}
    assert list(found) == ["fold 0", "fold 1", "mean of 2"]
    assert all(row["other"] == "ridge" for row in found.values())
    assert found["mean of 2"]["difference"] == pytest.approx(np.mean(of_folds))
    assert found["fold 1"]["clusters"]["operation"]["levels"] == 6
    print_study(result)


def test_a_study_may_score_fewer_examples(world: Path, overrides: dict, result: dict) -> None:
    study = dataclasses.replace(load_study(str(world / "tiny.yaml")), max_examples=2)
    fewer = run_study(study, world / "fewer", overrides, ["both"], [0])
    assert fewer["rows"][0]["n_tasks"] == result["rows"][0]["n_tasks"]
    document = json.loads((world / "fewer" / "tiny" / cell_name("both", 0) / "eval_main.json").read_text())
    assert {row["n_examples"] for row in document["tasks"]} == {2}


def test_a_variant_that_was_not_asked_for_may_lack_its_zoo(world: Path, overrides: dict, tmp_path: Path) -> None:
    study = load_study(str(world / "tiny.yaml"))
    variants = {"own": {"checkpoint_folder": overrides["checkpoint_folder"]}, "other": {"checkpoint_folder": str(tmp_path / "none")}}
    study = dataclasses.replace(study, variants=variants, reference=None)
    mine = {key: value for key, value in overrides.items() if key != "checkpoint_folder"}
    assert {row["variant"] for row in run_study(study, tmp_path, mine, ["own"], [0])["rows"]} == {"own"}
    with pytest.raises(InputError, match="none: no zoo there; build it with"):
        run_study(study, tmp_path, mine, [], [0])


def test_a_soft_prompt_is_trained_beside_each_cell_that_compares_one(world: Path, overrides: dict) -> None:
    study = dataclasses.replace(load_study(str(world / "tiny.yaml")), methods=["generated", "soft_prompt"])
    found = run_study(study, world / "soft", overrides, ["both"], [0])
    assert [row["method"] for row in found["rows"]] == ["generated", "soft_prompt"]
    assert (world / "soft" / "tiny" / f"{cell_name('both', 0)}-soft-prompt" / "soft_prompt" / "config.json").is_file()


@pytest.mark.parametrize("own_tasks", [False, True])
def test_the_reference_is_paired_by_task_with_seeds_averaged(tmp_path: Path, own_tasks: bool) -> None:
    study = Study("made", "smoke", {"a": {}, "b": {}}, reference="a", methods=["generated"])
    right = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.3, ("b", 1): 0.4}
    means = write_cells(tmp_path, right, own_tasks)
    compared = summarize(study, tmp_path, list(right))["comparisons"]
    assert [(row["variant"], row["other"]) for row in compared] == [("a", "b")]
    expected = np.mean([means["a", 0], means["a", 1]]) - np.mean([means["b", 0], means["b", 1]])
    assert compared[0]["difference"] == pytest.approx(expected)
    assert compared[0]["low"] <= expected <= compared[0]["high"]
    assert compared[0]["clusters"]["operation"]["levels"] == 6
    assert compared[0]["p_holm"] == 2 / 2**6  # the least that six clusters allow
    assert compared[0]["by_seed"] == {s: pytest.approx(means["a", int(s)] - means["b", int(s)]) for s in ("0", "1")}


def test_the_command_shows_table_and_figure(world: Path, overrides: dict, result: dict, capsys) -> None:
    flags = [part for name, value in overrides.items() for part in (f"--{name}", value)]
    arguments = ["ablate", "--study", str(world / "tiny.yaml"), "--study_dir", str(world / "studies"), *flags]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "product only" in out
    assert "the reference against the other variants" in out
    assert re.search(r"seen: paired by \d+ tasks, clustered by ", out)
    assert (world / "studies" / "tiny" / "study.png").stat().st_size > 5000
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_build(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    configs = [study.experiment(variant, 0, {}, tmp_path) for variant in study.variants]
    assert len({config.get_hash() for config in configs}) == len(configs)
    assert study.axis is None or all(float(study.place(variant)[1]) for variant in study.variants)
    assert (preset_folder() / "studies" / f"{name}.yaml").is_file()


def test_faults_are_named(world: Path, tmp_path: Path, overrides: dict) -> None:
    with pytest.raises(InputError, match="unknown study 'objectve'; did you mean objectives"):
        load_study("objectve")
    for changed, message in (
        ({"seads": [1]}, r"bad.yaml: unknown key seads \(did you mean seeds\?\)"),
        ({"variants": {}}, "variants must be at least 1 long, found {}"),
        ({"variants": {"both": 3}}, "variants.both must be a mapping, found 3"),
        ({"seeds": 3}, "seeds must be a list of an integer, found 3"),
        ({"set": 3}, "set must be a mapping, found 3"),
        ({"config": 3}, "config must be a string, found 3"),
        ({"methods": ["base"]}, "methods lack 'generated'"),
        ({"reference": "neither"}, "reference 'neither' is none of its variants both, product only"),
        (
            {"variants": {"both": {}, "Both!": {}}},
            "variants '(both|Both!)' and '(both|Both!)' would share the folder (both|Both)-seed0; rename one",
        ),
        ({"variants": {"both": {}, "x" * 300: {}}}, "the folder of variant 'xxx.* is 306 bytes long, at most 200 are allowed"),
        ({"axis": "tasks"}, "with an axis, variants are named '<line>, <number>'; 'both' is not"),
        (
            {"axis": "tasks", "together": True, "variants": {"a, 5": {}}, "reference": "a"},
            "variants along an axis are no draws of one thing; leave out axis or together",
        ),
    ):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**STUDY, **changed}))
        with pytest.raises(InputError, match=message):
            load_study(str(tmp_path / "bad.yaml"))
    with pytest.raises(InputError, match="study tiny has no variant 'neither'; choose from both, product only"):
        run_study(load_study(str(world / "tiny.yaml")), tmp_path, overrides, ["neither"])
    elsewhere = {**overrides, "checkpoint_folder": str(tmp_path / "none")}
    with pytest.raises(InputError, match=r"none: no zoo there; build it with 'llgbm zoo build --suite \S+ --zoo \S+none'"):
        run_study(load_study(str(world / "tiny.yaml")), tmp_path, elsewhere)
    assert not (tmp_path / "tiny").exists()
