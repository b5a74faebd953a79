"""What a plan says is what the stages' own steps take, and it refuses what cannot fit with a setting under which it does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_world import build_world, changed
from transformers import LlamaConfig

from llgbm.config import ExperimentConfig, ModelConfig, build, preset_values
from llgbm.errors import InputError
from llgbm.evaluation.answering import load_worker
from llgbm.evaluation.ridge import VALIDATION_EXAMPLES, VALIDATION_TASKS
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.measure import row_bytes
from llgbm.functional_lora.sharding import shared_bytes
from llgbm.lora.peft_io import target_shapes
from llgbm.memory import GIB, SHARE
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.models.kernel_ridge import KERNELS, STRENGTHS
from llgbm.planning import steps
from llgbm.planning.costs import SAMPLES, UnitCosts, calibrate, fit_units, load_costs
from llgbm.planning.paper import architecture, paper_base, weights_bytes
from llgbm.planning.plan import Devices, _savings, make_plan, workload
from llgbm.planning.stages import Workload
from llgbm.planning.steps import Generator, Rows, Teachers, forward
from llgbm.planning.work import Work, count, on_paper
from llgbm.training.setup import new_generator, prepare
from llgbm.zoo.base import load_base
from llgbm.zoo.suites import load_suite

COSTS = UnitCosts(1e-6, 1e-11, 1e-10, 1e-10, device="a machine", memory_gb=4.0)
ROWS = Rows(adapters=3, each=2, tokens=16, answers=4)
LOAD = Workload(
    adapters=100,
    learned=100,
    tasks=100,
    asked=300,
    answered=100,
    levels=(),
    chat=False,
    tokens=16,
    answer_tokens=4,
    test_examples=8,
    probe_tokens=16,
)


def _config(**model: str) -> ExperimentConfig:
    config = build(preset_values("smoke"))
    return replace(config, model=ModelConfig(**{"name": "micro", **model}))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """A base of two layers: a plan of it takes a fraction of what one of MicroZoo's takes."""
    return _config(name=_save_base(tmp_path_factory.mktemp("shallow"), layers=2))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """A base of four equal layers, all savings that cost little made."""
    config = _config(name=_save_base(tmp_path_factory.mktemp("deep"), layers=4), dtype="bfloat16")
    training, zoo = replace(config.training, gradient_checkpointing=True), replace(config.zoo, gradient_checkpointing=True)
    return replace(config, training=training, zoo=zoo)


def _save_base(folder: Path, layers: int) -> str:
    size = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": layers, "num_attention_heads": 2, "vocab_size": 64}
    LlamaConfig(**size).save_pretrained(folder)
    return str(folder)


def _real(config: ExperimentConfig) -> FunctionalLoRA:
    model = load_base("micro").model
    return FunctionalLoRA(model, target_shapes(model, config.lora.target_modules))


def _paper(config: ExperimentConfig) -> FunctionalLoRA:
    return paper_base(config.model, config.lora.target_modules, "cpu", 4 * GIB)


def _steps(functional: FunctionalLoRA, config: ExperimentConfig, levels: tuple[int, ...]) -> list[Work]:
    teachers, generator = Teachers(functional, config, ROWS.adapters), Generator(functional, config, levels)
    steps = (
        lambda: teachers.micro_batch(ROWS),
        teachers.update,
        lambda: generator.micro_batch(ROWS),
        generator.update,
        lambda: forward(functional, ROWS, config.lora.rank),
        lambda: forward(functional, replace(ROWS, answers=0), config.lora.rank),
    )
    for step in steps:  # what is made once, such as an optimizer's moments
        step()
    return [count(step) for step in steps]


@pytest.mark.parametrize("levels", [(), (3, 2)])
def test_steps_on_paper_count_what_they_do_on_tensors(levels: tuple[int, ...]) -> None:
    config = _config()
    config = replace(config, generator=replace(config.generator, attributes=True, encoder="hashing+base"))
    with on_paper():
        planned = _steps(_paper(config), config, levels)
    for found, real in zip(planned, _steps(_real(config), config, levels), strict=True):  # the mask's values are looked at on tensors alone
        assert (found.wide_flops, found.batched_flops) == (real.wide_flops, real.batched_flops)
        assert found.operations == pytest.approx(real.operations, rel=0.02)
        assert found.moved_bytes == pytest.approx(real.moved_bytes, rel=0.001)
    assert all(work.operations and work.moved_bytes for work in planned)


@pytest.mark.parametrize("encoder", ["hashing", "hashing+base"])
def test_a_generator_of_attributes_is_planned_as_it_is_trained(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(build_world(tmp_path), generator__attributes=True, generator__encoder=encoder, zoo__suite=str(tmp_path / "suite"))
    setup = prepare(config, "cpu")
    trained = new_generator(config, setup)
    assert isinstance(trained, AttributeGenerator)
    monkeypatch.setattr(steps, "EMBEDDING_DIM", setup.encoder.token_widths[0] if setup.encoder.token_widths else setup.encoder.dim)
    load, _ = workload(config)
    planned = Generator(setup.functional, config, load.levels).network
    sizes = [{name: tuple(parameter.shape) for name, parameter in network.named_parameters()} for network in (planned, trained)]
    assert sizes[0] == sizes[1]


def test_products_are_counted_by_their_shapes() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count(lambda: a @ b) == Work(1, 2 * 3 * 5 * 7, 0, 4 * (15 + 35 + 21))
    many = torch.ones(2, 3, 5), torch.ones(2, 5, 7)
    assert count(lambda: torch.bmm(*many)) == Work(1, 0, 2 * 2 * 3 * 5 * 7, 2 * 4 * (15 + 35 + 21))
    assert count(lambda: a.T.detach()) == Work()
    assert Work(1, 2, 3, 4) * 2 + Work(1, 1, 1, 1) == Work(3, 5, 7, 9)


def test_a_row_takes_on_paper_what_it_takes_there() -> None:
    config = _config()
    with on_paper():
        planned = [row_bytes(_paper(config), 20, backward=backward) for backward in (False, True)]
    real = [row_bytes(_real(config), 20, backward=backward) for backward in (False, True)]
    assert planned == pytest.approx(real, rel=0.1)  # on paper a mask is made for every row
    assert planned >= real


def test_costs_are_found_again_and_never_negative() -> None:
    rng = torch.Generator().manual_seed(0)
    works = [Work(*(10 ** (6 * torch.rand(4, generator=rng, dtype=torch.float64))).tolist()) for _ in range(12)]
    assert fit_units(works, [COSTS.seconds(work) for work in works]) == pytest.approx(COSTS.units())
    assert min(fit_units(works, [1e-6 * work.operations + 1e-3 for work in works])) >= 0


@pytest.mark.slow
def test_costs_of_this_machine_are_measured() -> None:
    costs = calibrate("cpu", "float32", samples=SAMPLES[:3])
    assert costs.measured
    assert costs.kind == "cpu"
    assert costs.seconds(Work(1e6, 1e12, 1e12, 1e12)) > 0


def test_costs_are_kept_and_checked(tmp_path: Path) -> None:
    COSTS.save(tmp_path / "costs.json")
    assert load_costs(str(tmp_path / "costs.json")) == COSTS
    replace(COSTS, operations=-1.0).save(tmp_path / "costs.json")
    with pytest.raises(InputError, match=r"costs\.json: a cost is negative; measure again with --calibrate"):
        load_costs(str(tmp_path / "costs.json"))
    (tmp_path / "costs.json").write_text('{"operations": "many"}')
    with pytest.raises(InputError, match=r"costs\.json: "):
        load_costs(str(tmp_path / "costs.json"))
    with pytest.raises(InputError, match=r"costs b200: no such file, nor are they among those of the package \(h100\); measure with"):
        load_costs("b200")


def test_what_comes_with_the_package_says_that_it_is_assumed() -> None:
    assert not load_costs("h100").measured


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.494),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1.544),
        ("Qwen/Qwen2.5-7B-Instruct", 7.616),
        ("meta-llama/Llama-3.2-1B-Instruct", 1.236),
        ("google/gemma-2-2b-it", 2.614),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.1345),
    ],
)
def test_published_bases_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    with on_paper():
        functional = paper_base(ModelConfig(name, "bfloat16"), ["q_proj"], "cuda", 80 * GIB)
        assert sum(parameter.numel() for parameter in functional.model.parameters()) / 1e9 == pytest.approx(billions, rel=1e-3)


def test_a_base_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"base some/model: cannot be read .*without the hub, plans know the sizes of Qwen/"):
        architecture("some/model")


@pytest.mark.slow
def test_devices_share_the_work(shallow: ExperimentConfig) -> None:
    one, four = (make_plan(shallow, LOAD, Devices(count, 4 * GIB, COSTS)) for count in (1, 4))
    assert [stage.name for stage in one.stages] == ["teachers", "deltas", "generator", "evaluation"]
    for alone, shared in zip(one.stages, four.stages, strict=True):
        assert four.seconds(shared) < one.seconds(alone)
    assert one.device_hours <= four.device_hours


@pytest.mark.slow
def test_tasks_without_teachers_take_their_own_forward_and_backward_and_a_guide_that_is_trained(shallow: ExperimentConfig) -> None:
    behavior = replace(shallow, objective=replace(shallow.objective, kl=1.0, practice=0.0, context=0.0))
    practice, context = (replace(behavior, objective=replace(behavior.objective, **{term: 1.0})) for term in ("practice", "context"))
    plans = [make_plan(one, LOAD, Devices(1, 4 * GIB, COSTS)) for one in (behavior, practice, context)]
    alone, practiced, guided = ([plan.seconds(stage) for stage in plan.stages] for plan in plans)
    assert alone[2] < practiced[2] < guided[2]
    assert guided[2] - practiced[2] > alone[0] / 2  # the guide sees what all teachers see, beside a request
    assert alone[:2] + alone[3:] == guided[:2] + guided[3:]
    fewer = make_plan(context, replace(LOAD, learned=50), Devices(1, 4 * GIB, COSTS))
    assert alone[2] < fewer.seconds(fewer.stages[2]) < guided[2]


@pytest.mark.slow
def test_an_evaluation_asks_as_often_as_it_was_planned_to(tmp_path: Path) -> None:
    config = changed(build_world(tmp_path, n_unseen=2), training__validation_fraction=0.0, zoo__suite=str(tmp_path / "suite"))
    outline = load_worker(None, config.checkpoint_folder, EvaluationConfig(), None).survey()
    load, _ = workload(config)
    assert load.asked == sum(map(len, outline.questions.values()))
    once = {(question.task.name, question.task.test) for asked in outline.questions.values() for question in asked}
    assert load.answered == len(once)
    seen = load_suite(config.zoo.suite).select(split="seen")
    assert load.levels == tuple(len({task.attributes[name] for task in seen}) for name in ("operation", "style", "wrapper"))
    assert not load.chat


@pytest.mark.slow
def test_what_rivals_choose_train_and_are_told_is_planned(deep: ExperimentConfig) -> None:
    devices = Devices(1, 4 * GIB, replace(COSTS, dtype="bfloat16"))

    def planned(load: Workload) -> Work:
        return make_plan(deep, load, devices).stages[-1].work

    alone, ways = planned(LOAD), 5  # that read words, and as many that do not
    chosen = len(KERNELS) * len(STRENGTHS) * VALIDATION_TASKS * VALIDATION_EXAMPLES
    scored = planned(replace(LOAD, asked=301)).wide_flops - alone.wide_flops
    assert scored > 0
    one_row = scored / (ways * LOAD.test_examples)
    assert alone.wide_flops > one_row * (ways * (LOAD.asked + LOAD.answered) * LOAD.test_examples + chosen)
    attributes, chat = (planned(replace(LOAD, **told)).wide_flops - alone.wide_flops for told in ({"levels": (2, 3)}, {"chat": True}))
    assert attributes > one_row * (chosen + (LOAD.asked + LOAD.answered) * LOAD.test_examples) * 0.999
    assert chat > one_row * 3 * 2 * LOAD.asked * LOAD.test_examples
    told = make_plan(deep, replace(LOAD, chat=True), devices).stages[-1].what
    assert f"by {2 * ways + 3 - 1} methods" in told, "the LoRA that is told nothing is left out for one that is told"


@pytest.mark.slow
def test_a_stage_takes_what_a_device_has_and_no_more(shallow: ExperimentConfig) -> None:
    config = replace(shallow, zoo=replace(shallow.zoo, batch_size=64))
    small, large = (make_plan(config, LOAD, Devices(1, gib * GIB, COSTS)) for gib in (0.05, 4))
    for tight, roomy in zip(small.stages, large.stages, strict=True):
        assert tight.least_bytes <= tight.bytes <= 0.05 * GIB
        assert tight.bytes <= roomy.bytes
    assert small.stages[0].bytes < large.stages[0].bytes


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_a_setting_under_which_it_does(shallow: ExperimentConfig) -> None:
    least = max(stage.least_bytes for stage in make_plan(shallow, LOAD, Devices(1, 4 * GIB, COSTS)).stages)
    with pytest.raises(
        InputError, match=r"shallow0 in float32 needs devices of .* GiB, these have .*; set model\.dtype to bfloat16"
    ) as found:
        make_plan(shallow, LOAD, Devices(1, 0.98 * least / SHARE, COSTS))
    changed = replace(shallow, model=ModelConfig(shallow.model.name, "bfloat16"))
    if "zoo." in str(found.value):
        changed = replace(changed, zoo=replace(shallow.zoo, gradient_checkpointing=True))
        changed = replace(changed, training=replace(shallow.training, gradient_checkpointing=True))
    assert make_plan(changed, LOAD, Devices(1, 0.98 * least / SHARE, replace(COSTS, dtype="bfloat16")))
    with pytest.raises(InputError, match=r"take devices of \d+ GiB and set .*, or take a smaller base"):
        make_plan(shallow, LOAD, Devices(1, 1e6, COSTS))


@pytest.mark.slow
def test_a_base_in_shares_takes_less_of_each_device_and_is_named_where_that_is_enough(deep: ExperimentConfig) -> None:
    costs = replace(COSTS, dtype="bfloat16")
    shared = replace(deep, training=replace(deep.training, shard_base=True))
    whole, parts = (make_plan(config, LOAD, Devices(4, 4 * GIB, costs)) for config in (deep, shared))
    with on_paper():
        base = paper_base(deep.model, deep.lora.target_modules, "cpu", 4 * GIB)
        saved = weights_bytes(base) - sum(shared_bytes(base, 4))
    assert saved > 0
    for one, other in zip(whole.stages, parts.stages, strict=True):
        assert one.least_bytes - other.least_bytes == (saved if one.name == "generator" else 0)
    assert "the base's layers in 4 shares" in parts.stages[2].what
    *others, least = sorted(stage.least_bytes for stage in whole.stages)
    assert least == whole.stages[2].least_bytes
    small = max((others[-1] + least) / 2, least - saved / 2) / SHARE
    with pytest.raises(InputError, match=r"^generator: .* needs devices of .*; set training\.shard_base to true$"):
        make_plan(deep, LOAD, Devices(4, small, costs))


def test_only_several_devices_are_told_to_share_a_base() -> None:
    assert [any("shard_base" in text for text, _ in _savings(count)) for count in (1, 2)] == [False, True]


def test_a_base_is_not_shared_by_one_device() -> None:
    config = _config()
    config = replace(config, training=replace(config.training, shard_base=True))
    with pytest.raises(InputError, match=r"shard_base spreads the base over devices, and there is one; plan with more \(--gpus\)"):
        make_plan(config, LOAD, Devices(1, 4 * GIB, COSTS))


def test_costs_of_another_precision_are_refused() -> None:
    with pytest.raises(InputError, match=r"the costs are of float32, model\.dtype is bfloat16; measure them with --calibrate"):
        make_plan(_config(dtype="bfloat16"), LOAD, Devices(1, 4 * GIB, COSTS))


def test_lengths_are_those_of_the_suite_where_the_tokenizer_is_here() -> None:
    load, measured = workload(_config())
    assert measured
    assert (load.adapters, load.learned, load.tasks) == (240, 154, 240)  # of 171 seen tasks 17 are held back
    assert 16 < load.tokens < 64
    assert 1 < load.answer_tokens < load.tokens
    many, measured = workload(_config(name="Qwen/Qwen2.5-7B-Instruct"), adapters=10_000, tokens=77)
    assert not measured
    assert (many.adapters, many.learned, many.tokens) == (10_000, 9_000, 77)
