"""The training loop: it learns, resumes to the bit, keeps the best checkpoint, and names what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tolerance import depth, relative
from training_world import build_world, changed

from llgbm.errors import InputError
from llgbm.files import hash_tensors, read_json, write_json
from llgbm.lora.stored import StoredFactors
from llgbm.losses import OBJECTIVES
from llgbm.models.generator import LoRAGenerator
from llgbm.tracking.record import ExperimentLogger
from llgbm.training.behavior import OF_ATTRIBUTES, TRUSTS, train_generator
from llgbm.training.checkpoints import complete_steps, read_state
from llgbm.training.loop import DivergedError
from llgbm.training.processes import new_accelerator
from llgbm.zoo.base import load_base


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def config(world, tmp_path):
    return changed(world, output_dir=str(tmp_path))


def metrics(config) -> list[dict]:
    path = Path(config.output_dir) / config.experiment_name / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(result) -> dict[str, torch.Tensor]:
    return load_file(result.folder / "checkpoints" / f"step_{result.steps}" / "model.safetensors")


def weights_of(config) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output_dir) / config.experiment_name / "generator" / "model.safetensors")


def test_zero_teachers_and_steps_of_one_task_are_refused_before_anything_is_written(tmp_path):
    zero = changed(build_world(tmp_path / "zero", b_scale=0.0), output_dir=str(tmp_path / "outputs"))
    for term in ("product", "weight"):
        alone = {f"objective__{name}": float(name == term) for name in ("product", "weight", "kl")}
        with pytest.raises(InputError, match=f"objective {term} has nothing to compare: every teacher's weight change is zero"):
            train_generator(changed(zero, **alone))
    one = changed(zero, objective__product=0.0, objective__agreement=1.0, training__tasks_per_step=1)
    with pytest.raises(InputError, match="objective agreement has nothing to compare: it needs at least 2 tasks per step"):
        train_generator(one)
    assert not (tmp_path / "outputs" / "run" / "config.yaml").exists()


def test_teachers_on_disk_are_expected_before_they_are_selected(config, monkeypatch):
    asked: list[tuple[str, tuple[int, ...]]] = []
    for name in ("expect", "select"):
        own = getattr(StoredFactors, name)

        def watched(self, indices, name=name, own=own):
            asked.append((name, tuple(int(i) for i in indices)))
            return own(self, indices)

        monkeypatch.setattr(StoredFactors, name, watched)
    train_generator(changed(config, training__teacher_cache_gb=1e-6))
    of_steps = [(name, chosen) for name, chosen in asked if len(chosen) == config.training.batch_size]
    selected = [chosen for name, chosen in of_steps if name == "select"]
    expected = [chosen for name, chosen in of_steps if name == "expect"]
    assert len(selected) == config.training.total_steps * config.training.tasks_per_step // config.training.batch_size
    assert expected == selected[1:]


def weights_at(config, step: int) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output_dir) / config.experiment_name / "checkpoints" / f"step_{step}" / "model.safetensors")


def distance(one: dict, two: dict) -> float:
    return float(torch.cat([(one[k] - two[k]).flatten() for k in one]).norm())


def step_length(config, found: dict) -> float:
    """Of one step by AdamW, which moves every weight by the learning rate, also where a gradient is nothing but rounding."""
    return config.training.learning_rate * sum(tensor.numel() for tensor in found.values()) ** 0.5


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


WHOLE_STEP_TERMS = {"objective__agreement": 0.5, "objective__delta": 0.5, "objective__tether": 0.5}
"""Terms that look at the whole step, however it is cut into parts."""

WHOLE_STEP_FIGURES = ("loss/agreement", "loss/delta", "loss/tether")


class Killed(Exception):
    pass


def stop_after(steps: int):
    def progress(done, total, **figures):
        if done == steps:
            raise Killed

    return progress


def test_it_learns_to_copy_its_teachers(config):
    train_generator(changed(config, training__total_steps=60, training__eval_interval=60))
    rows = metrics(config)
    assert rows[0]["loss/product"] == pytest.approx(1, rel=relative(length=64, depth=6))  # the zero adapter
    assert rows[0]["loss/kl"] == pytest.approx(1, abs=0.5)  # 1 on average over all examples, not on those of a step
    assert rows[-1]["loss/product"] < 0.5
    assert rows[-1]["loss/kl"] < 0.5


def test_same_seed_same_bits_and_another_seed_other_bits(config, tmp_path):
    runs = [weights(train_generator(changed(config, experiment_name=name, seed=seed))) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


STARTED = {"generator__ridge": 2, "generator__slots": 2, "training__augment": 0.5, "training__word_dropout": 0.2}
"""Settings that choose something at random in every step, or fit something before the first."""


ATTRIBUTES = {
    "generator__attributes": True,
    "objective__attributes": 1.0,
    "objective__practice": 1.0,
    "training__practice_interval": 3,
    "training__practice_prior": 0.5,
}


def test_validation_decides_how_far_a_ridge_regression_is_left(config):
    result = train_generator(changed(config, **STARTED))
    assert result.validation["trust"] in TRUSTS
    assert float(weights_of(config)["trust"]) == result.validation["trust"]
    assert {row["validation/trust"] for row in metrics(config) if "validation/trust" in row} <= set(TRUSTS)
    assert "trust" not in train_generator(changed(config, experiment_name="without")).validation


def test_a_ridge_regression_has_fewer_directions_than_there_are_teachers(config):
    train_generator(changed(config, generator__ridge=64))
    assert LoRAGenerator.from_pretrained(config.run_folder).spec.ridge == 4


@pytest.mark.parametrize(("stop", "settings"), [(1, {}), (3, {}), (4, {}), (4, STARTED), (4, ATTRIBUTES)])
def test_interrupted_and_resumed_equals_uninterrupted(config, stop, settings):
    config = changed(config, **settings)
    whole = train_generator(changed(config, experiment_name="whole"))
    with pytest.raises(Killed):
        train_generator(config, progress=stop_after(stop))
    resumed = train_generator(config, begin="go_on")
    assert same(weights(whole), weights(resumed))
    assert whole.best_step == resumed.best_step
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k and "time" not in k} for row in metrics(c)]
        for c in (config, changed(config, experiment_name="whole"))
    ]
    assert timeless[0] == timeless[1]


def test_a_step_is_divided_as_before_unless_memory_takes_less_when_a_run_goes_on(config, monkeypatch):
    config = changed(config, training__batch_size=4)
    monkeypatch.setattr("llgbm.training.behavior.adapters_at_once", lambda *_: 2)
    whole = train_generator(changed(config, experiment_name="whole"))
    with pytest.raises(Killed):
        train_generator(config, progress=stop_after(3))
    smaller = changed(config, experiment_name="smaller")
    shutil.copytree(config.run_folder, smaller.run_folder)
    monkeypatch.setattr("llgbm.training.behavior.adapters_at_once", lambda *_: 4)
    assert same(weights(whole), weights(train_generator(config, begin="go_on")))
    monkeypatch.setattr("llgbm.training.behavior.adapters_at_once", lambda *_: 1)
    resumed = train_generator(smaller, begin="go_on")
    assert read_state(resumed.folder / "checkpoints" / "step_6")["problem"]["at_once"] == 1


def test_the_scale_of_gradients_in_fp16_goes_on_where_it_was(config, monkeypatch):
    def scaled(config):
        accelerator = new_accelerator(config)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        return accelerator

    monkeypatch.setattr("llgbm.training.loop.new_accelerator", scaled)
    whole = train_generator(changed(config, experiment_name="whole"))
    with pytest.raises(Killed):
        train_generator(config, progress=stop_after(3))
    resumed = train_generator(config, begin="go_on")
    found = [read_state(result.folder / "checkpoints" / "step_6").get("scaler", {}).get("scale") for result in (whole, resumed)]
    assert found == [4.0 * 2**3] * 2


def test_a_torn_checkpoint_is_ignored(config):
    with pytest.raises(Killed):
        train_generator(config, progress=stop_after(5))
    folder = Path(config.output_dir) / "run" / "checkpoints"
    newest = complete_steps(folder)[-1]
    (folder / f"step_{newest}" / "optimizer.safetensors").write_bytes(b"torn")
    assert newest not in complete_steps(folder)
    whole = train_generator(changed(config, experiment_name="whole"))
    assert same(weights(train_generator(config, begin="go_on")), weights(whole))


def test_resuming_a_finished_run_changes_nothing(config):
    first = train_generator(config)
    again = train_generator(config, begin="go_on")
    assert (again.steps, again.best_step, again.validation) == (first.steps, first.best_step, first.validation)
    assert len(metrics(config)) == 6


@pytest.mark.parametrize("begin", ["resume", "go_on"])
@pytest.mark.parametrize(("where", "name"), [(LoRAGenerator, "save_pretrained"), (ExperimentLogger, "finalize")])
def test_a_run_that_was_killed_as_it_finished_is_finished_when_it_goes_on(config, monkeypatch, begin, where, name):
    own = getattr(where, name)

    def killed(self, *args):
        if name == "finalize" or Path(args[0]).name == "generator":
            raise Killed
        own(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, killed)
        with pytest.raises(Killed):
            train_generator(config)
    assert read_json(config.run_folder / "training.json")["steps"] == 6
    with pytest.raises(InputError, match="stands at step 6; give --resume to go on from there"):
        train_generator(config)
    result = train_generator(config, begin=begin)
    assert read_json(result.folder / "metadata.json")["state"] == "COMPLETED"
    assert same(weights_of(config), load_file(result.folder / "checkpoints" / f"step_{result.best_step}" / "model.safetensors"))


def test_old_checkpoints_go_and_the_best_stays(config):
    result = train_generator(changed(config, training__save_interval=1))
    kept = complete_steps(result.folder / "checkpoints")
    assert set(kept) == {result.steps, result.best_step}
    best = LoRAGenerator.from_pretrained(result.folder / "checkpoints" / f"step_{result.best_step}")
    final = LoRAGenerator.from_pretrained(result.network)
    assert same(best.state_dict(), final.state_dict())


def test_micro_batches_change_nothing_but_rounding(config):
    parts = changed(config, training__delta_batch_size=3, **WHOLE_STEP_TERMS)
    runs = [changed(parts, experiment_name=str(n), training__batch_size=n) for n in (1, 4)]
    for run in runs:
        train_generator(run)
    one, four = ([[row[k] for k in ("loss", *WHOLE_STEP_FIGURES, "grad_norm")] for row in metrics(run)] for run in runs)
    assert one[0] == pytest.approx(four[0], rel=relative(length=128, depth=2 * depth(2)), abs=0)  # there and back
    for ours, theirs in zip(one, four, strict=True):  # AdamW turns rounding of gradients near zero into steps
        assert ours == pytest.approx(theirs, rel=1e-2)


def test_no_adapter_is_left_alone_where_their_spread_counts(config):
    uneven = changed(config, training__tasks_per_step=5, training__batch_size=4, objective__variance=1.0)
    assert train_generator(uneven).steps == 6


def test_targets_computed_each_step_equal_cached_ones(config):
    values = {"objective__trajectory": 1.0}
    cached = train_generator(changed(config, experiment_name="cached", **values))
    anew = train_generator(changed(config, experiment_name="anew", training__target_cache_gb=0.0, **values))
    assert distance(weights(cached), weights(anew)) < 1e-2 * step_length(config, weights(anew))


def test_bad_input_costs_a_finished_run_nothing(config):
    train_generator(config)
    finished = weights_of(config)
    with pytest.raises(InputError):
        train_generator(changed(config, objective__variance=1.0, training__batch_size=1), begin="overwrite")
    assert same(weights_of(config), finished)
    assert len(metrics(config)) == 6


def test_another_run_of_the_name_leaves_nothing_of_the_first(config):
    folder = train_generator(config).folder
    (folder / "eval_main.json").write_text("{}")
    train_generator(changed(config, seed=5, training__total_steps=2), begin="overwrite")
    assert not (folder / "eval_main.json").exists()
    assert len(metrics(config)) == 2


@pytest.mark.parametrize("term", list(OBJECTIVES))
def test_every_term_trains_alone(config, term):
    off = {f"objective__{t}": 0.0 for t in OBJECTIVES}
    few = {"training__total_steps": 2, "training__eval_interval": 2, "generator__attributes": term in OF_ATTRIBUTES}
    few["training__further_tasks"] = "micro" if term == "context" else None
    result = train_generator(changed(config, **{**off, **few, f"objective__{term}": 1.0}))
    assert f"loss/{term}" in metrics(config)[0]
    assert result.steps == 2


def test_schedules_apply_to_behavioral_terms_and_to_named_ones(config):
    values = {"training__lambda_schedule": "linear", "training__lambda_warmup_steps": 4, "training__schedules": ["product:step"]}
    train_generator(changed(config, **values))
    assert [row["weight/kl"] for row in metrics(config)][:5] == [0.25, 0.5, 0.75, 1, 1]
    assert [row["weight/product"] for row in metrics(config)][:5] == [0, 0, 0, 0, 1]


def test_gradient_checkpointing_changes_nothing_but_rounding(config):
    runs = [weights(train_generator(changed(config, experiment_name=str(on), training__gradient_checkpointing=on))) for on in (False, True)]
    assert distance(*runs) < 1e-2 * step_length(config, runs[0])


@pytest.mark.parametrize("condition", ["prompts", "both"])
def test_other_conditions_train(config, condition):
    result = train_generator(changed(config, generator__condition=condition, training__total_steps=2))
    assert LoRAGenerator.from_pretrained(result.network).spec.condition == condition


def test_bf16_and_top_k_train(config):
    train_generator(changed(config, training__mixed_precision="bf16", training__kl_top_k=8))
    assert all(row["loss/kl"] > 0 for row in metrics(config))


def test_held_back_tasks_are_never_trained_on(config):
    spec = LoRAGenerator.from_pretrained(train_generator(config).network).spec
    assert len(spec.validated_on) == 1
    assert len(spec.trained_on) == 5
    assert not set(spec.validated_on) & set(spec.trained_on)


def test_smaller_runs_train_on_a_part_of_the_larger_ones_tasks(config):
    def names(limit):
        run = train_generator(changed(config, training__max_train_tasks=limit, experiment_name=f"of-{limit}"))
        return set(LoRAGenerator.from_pretrained(run.network).spec.trained_on)

    assert names(2) < names(4) < names(None)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(config, monkeypatch):
    real = OBJECTIVES["kl"].compute
    calls = []

    def breaks(comparison):
        calls.append(1)
        return real(comparison) * (torch.nan if len(calls) > 8 else 1.0)

    monkeypatch.setitem(OBJECTIVES, "kl", type(OBJECTIVES["kl"])(breaks, OBJECTIVES["kl"].needs, True, ""))
    with pytest.raises(DivergedError, match="stopped at step 5: kl is nan; the checkpoint of step 4 is kept"):
        train_generator(config)
    assert complete_steps(Path(config.output_dir) / "run" / "checkpoints")[-1] == 4


def test_a_zoo_whose_tasks_are_all_held_back_leaves_none_to_train_on(tmp_path):
    with pytest.raises(InputError, match="1 seen tasks, 1 of them held back, leave none to train on"):
        train_generator(build_world(tmp_path, n_tasks=1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training__mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"generator__encoder": "hashin"}, "did you mean 'hashing'"),
        ({"objective__kl": 0.0, "objective__product": 0.0}, "every weight in objective is 0"),
        ({"objective__delta": 1.0, "delta__token_idx": -999}, "delta.token_idx -999 is outside a probe"),
        ({"training__schedules": ["kl=step"]}, "schedules entry 'kl=step' is not term:schedule"),
        ({"training__schedules": ["kl:stepp"]}, "schedule 'stepp' is unknown"),
        ({"checkpoint_folder": "/nowhere"}, "not a zoo"),
    ],
)
def test_bad_settings_are_named(config, values, message):
    with pytest.raises(InputError, match=message):
        train_generator(changed(config, **values))


def test_a_zoo_of_another_base_is_refused(config, tmp_path):
    other = build_world(tmp_path / "other")
    manifest = Path(other.checkpoint_folder) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["base"]["hash"] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"zoo .* belongs to a base with hash 00000000, but"):
        train_generator(changed(config, checkpoint_folder=other.checkpoint_folder))


def test_resuming_with_another_config_is_refused(config):
    with pytest.raises(Killed):
        train_generator(config, progress=stop_after(3))
    with pytest.raises(InputError, match="was trained with another config"):
        train_generator(changed(config, training__learning_rate=1e-2), begin="go_on")
    with pytest.raises(InputError, match="was trained with another config"):
        train_generator(changed(config, generator__size="m"), begin="go_on")


def test_an_untouched_base(config):
    before = load_base(config.model.name).content_hash
    train_generator(changed(config, training__total_steps=2))
    assert load_base(config.model.name).content_hash == before


@pytest.mark.slow
@pytest.mark.parametrize("seconds_after_first_step", [0.02, 0.11, 0.23])
def test_kill_nine_then_resume(config, tmp_path, seconds_after_first_step):
    config = changed(config, training__total_steps=40, training__save_interval=3)
    whole = train_generator(changed(config, experiment_name="whole"))
    config.save(tmp_path / "config.yaml")
    code = "import sys; from llgbm.config import ExperimentConfig; from llgbm.training.behavior import TRUSTS, train_generator;"
    code += f"train_generator(ExperimentConfig.load({str(tmp_path / 'config.yaml')!r}))"
    same_threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number gives other bits
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=same_threads)
    log = Path(config.output_dir) / "run" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    time.sleep(seconds_after_first_step)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert same(weights(train_generator(config, begin="go_on")), weights(whole))


TWO_PROCESSES = """
import faulthandler, json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from accelerate import PartialState
from llgbm import multitask
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.files import hash_tensors, read_json, write_json
from llgbm.losses import OBJECTIVES, active_terms
from llgbm.training.behavior import BehaviorProblem
from llgbm.training.loop import DivergedError, train

faulthandler.dump_traceback_later(200, exit=True)  # processes that wait for each other say where
state = PartialState(cpu=True)
rank, mode = state.process_index, sys.argv[2]
config = ExperimentConfig.load(sys.argv[1])
config = replace(config, output_dir=f"{config.output_dir}/rank{rank}")  # no disk is shared
calls, problems, kl = [], [], OBJECTIVES["kl"]
guide_steps, train_guide = [], multitask.train_adapters

def teach(functional, lessons, lora, zoo, pad, on_step, begun, on_check):
    def note(step, *figures):
        guide_steps.append(step)
        if mode == "stops" and step == 3:
            raise InputError("stopped")
    return train_guide(functional, lessons, lora, replace(zoo, check_interval=2), pad, note, begun, on_check)

multitask.train_adapters = teach

def breaks(evidence):
    calls.append(1)
    return kl.compute(evidence) * (torch.nan if len(calls) > 4 else 1.0)

def dies(evidence):
    os.kill(os.getpid(), signal.SIGKILL)

if rank == 1 and mode in ("fails", "dies"):
    OBJECTIVES["kl"] = replace(kl, compute={"fails": breaks, "dies": dies}[mode])

def make(device):
    problems.append(BehaviorProblem(config, active_terms({k: float(v) for k, v in vars(config.objective).items()}), device))
    return problems[0]

said = {"processes": state.num_processes}
try:
    result = train(config, make, begin="new" if mode in ("fails", "stops", "sharded") else "resume")
    said |= {"best_step": result.best_step, "weights": hash_tensors(problems[0].network.state_dict())}
    if mode == "sharded":
        layers = problems[0].setup.functional.model.model.layers
        said |= {"share": sum(p.to_local().numel() for p in layers.parameters()) / sum(p.numel() for p in layers.parameters())}
except (DivergedError, InputError) as error:
    said |= {"error": str(error)}
said |= {"guide": guide_steps[:1]}
Path(f"{sys.argv[1]}.{sys.argv[2]}.{rank}.json").write_text(json.dumps(said))
"""


def run_two(script, config_file, mode):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run([*launch, str(config_file), mode], capture_output=True, text=True, timeout=300, env=environment)


def said_by_two(script, config_file, mode):
    """What each process said of a run that ends well."""
    done = run_two(script, config_file, mode)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{config_file}.{mode}.{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("recomputes", [False, True])
def test_two_processes_that_share_the_bases_layers_follow_the_curve_of_one_that_holds_them_all(config, tmp_path, recomputes):
    one = changed(config, experiment_name="whole", training__delta_batch_size=3, **WHOLE_STEP_TERMS)
    train_generator(one)
    two = changed(one, experiment_name="sharded", training__shard_base=True, training__gradient_checkpointing=recomputes)
    two.save(tmp_path / "two.yaml")
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    said = said_by_two(tmp_path / "train.py", tmp_path / "two.yaml", "sharded")
    assert said[0] == said[1]
    assert said[0]["share"] == 0.5
    there = changed(two, output_dir=str(Path(config.output_dir) / "rank0"))
    figures = [[row[k] for row in metrics(c) for k in row if k.startswith(("loss", "grad"))] for c in (one, there)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-4, abs=torch.finfo(torch.float32).eps)


def test_a_base_cannot_be_shared_by_one_process(config):
    with pytest.raises(InputError, match="shard_base spreads the base over processes, and there is one; start several with torchrun"):
        train_generator(changed(config, experiment_name="alone", training__shard_base=True))


@pytest.mark.slow
def test_two_processes_stop_together_resume_from_the_first_ones_disk_and_follow_the_curve_of_one(config, tmp_path):
    one = changed(config, experiment_name="one", training__delta_batch_size=3, training__save_interval=1, **WHOLE_STEP_TERMS)
    train_generator(one)
    two = changed(one, experiment_name="two")
    two.save(tmp_path / "two.yaml")
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    said = {"fails": said_by_two(tmp_path / "train.py", tmp_path / "two.yaml", "fails")}
    died = run_two(tmp_path / "train.py", tmp_path / "two.yaml", "dies")
    assert died.returncode != 0
    assert "Signal 9 (SIGKILL)" in died.stderr
    said["resumes"] = said_by_two(tmp_path / "train.py", tmp_path / "two.yaml", "resumes")
    assert [row["processes"] for rows in said.values() for row in rows] == [2, 2, 2, 2]
    assert said["fails"][0]["error"] == said["fails"][1]["error"]
    assert "stopped at step 5: kl is nan; the checkpoint of step 4 is kept" in said["fails"][0]["error"]
    assert said["resumes"][0] == said["resumes"][1]
    assert not (Path(config.output_dir) / "rank1" / "two").exists()
    there = changed(two, output_dir=str(Path(config.output_dir) / "rank0"))
    names = ("loss", "loss/kl", "loss/product", *WHOLE_STEP_FIGURES, "grad_norm")
    figures = [[row[k] for row in metrics(c) for k in names] for c in (one, there)]
    # Rounding, as far as six steps let it grow; a KL of nearly equal predictions is a difference of numbers near one.
    assert figures[0] == pytest.approx(figures[1], rel=1e-5, abs=torch.finfo(torch.float32).eps)
    moved, apart = (
        distance(early, late) for early, late in ((weights_at(one, 3), weights_at(one, 6)), (weights_at(one, 6), weights_at(there, 6)))
    )
    assert apart < 1e-2 * moved  # by norm: the optimizer takes a whole step where a gradient is nothing but rounding
    assert hash_tensors(weights_of(there)) == said["resumes"][0]["weights"]


@pytest.mark.slow
def test_two_processes_have_the_first_ones_guide_when_they_resume_too_and_follow_the_curve_of_one(tmp_path):
    config = build_world(tmp_path / "world")
    zoo = Path(config.checkpoint_folder)
    manifest = read_json(zoo / "manifest.json")
    write_json(zoo / "manifest.json", {**manifest, "teachers": [{**row, "steps": 128} for row in manifest["teachers"]]})
    one = changed(config, experiment_name="one", training__save_interval=1, training__further_tasks="micro", objective__context=1.0)
    train_generator(one)
    two = changed(one, experiment_name="two")
    two.save(tmp_path / "two.yaml")
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    said = {mode: said_by_two(tmp_path / "train.py", tmp_path / "two.yaml", mode) for mode in ("stops", "fails", "resumes")}
    assert all(first == second for first, second in said.values())
    assert [rows[0]["guide"] for rows in said.values()] == [[1], [3], []]
    kept = [sorted(Path(config.output_dir).glob(f"{place}cache/multitask_instructed-*")) for place in ("", "rank0/", "rank1/")]
    assert [len(folders) for folders in kept] == [1, 1, 0]
    there = changed(two, output_dir=str(Path(config.output_dir) / "rank0"))
    figures = [[row[k] for row in metrics(c) for k in ("loss", "loss/context", "grad_norm")] for c in (one, there)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-4, abs=torch.finfo(torch.float32).eps)


@pytest.mark.slow
def test_a_step_that_two_processes_cannot_share_is_named(config, tmp_path):
    config = changed(config, training__tasks_per_step=3, zoo__suite=str(Path(config.checkpoint_folder).parent / "suite"))
    config.save(tmp_path / "config.yaml")
    code = f"from llgbm.cli import main; raise SystemExit(main(['train', '--config_file', {str(tmp_path / 'config.yaml')!r}]))"
    (tmp_path / "train.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "train.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert done.returncode != 0
    assert "training.tasks_per_step 3 cannot be shared evenly by 2 processes" in done.stderr
