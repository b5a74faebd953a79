"""States and predictions at chosen tokens: equal to the plain model's, whoever asks."""

from dataclasses import replace

import pytest
import torch
from tolerance import assert_near, depth

from llgbm.delta import Behavior, DeltaEngine, DeltaOptions, Predictions, observe, top_predictions
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.losses import Evidence, trajectory_loss
from llgbm.probes import ProbeSet
from llgbm.training.targets import TargetOptions, TeacherTargets, owners
from llgbm.zoo.base import Base, load_base

ANSWERED = ProbeSet("answered", ("ab", "abcd"), ("x", "yz"))


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("micro")


@pytest.fixture(scope="module")
def factors(base: Base) -> LoRAFactors:
    generator = torch.Generator().manual_seed(0)
    start = LoRAFactors.initialize(target_shapes(base.model, ["q_proj", "down_proj"]), 2, 4.0, 3, generator=generator)
    return start.map(lambda t: torch.randn(t.shape, generator=generator) * 0.1)


@pytest.mark.numeric
def test_predictions_at_the_last_token_are_those_of_the_plain_model(base: Base, factors: LoRAFactors) -> None:
    engine = DeltaEngine(base, ProbeSet("two", ("ab", "a longer one")))
    behavior = engine.behavior(factors.map(torch.zeros_like), top_k=3)
    assert behavior.predictions is not None
    assert behavior.predictions.tokens is not None
    for row, text in enumerate(("ab", "a longer one") * 3):
        with torch.no_grad():
            logits = base.model(**base.tokenizer(text, return_tensors="pt")).logits[0, -1]
        values, tokens = logits.log_softmax(-1).topk(3)
        assert behavior.predictions.tokens[row].tolist() == tokens.tolist()
        assert_near(behavior.predictions.log_probs[row], values, scale=logits, length=512, depth=depth(5))


def test_states_at_the_last_token_give_the_fingerprint(base: Base, factors: LoRAFactors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llgbm.memory.SHARE", 1e-9)  # one adapter a forward
    engine = DeltaEngine(base, ANSWERED)
    monkeypatch.undo()
    states = engine.behavior(factors, predictions=False).states
    assert states is not None
    differences = states[-1].unflatten(0, (3, 2)) - engine.base_states[0]
    torch.testing.assert_close(differences.mean(1), torch.from_numpy(engine.deltas(factors)))


def test_the_engine_shows_what_training_learns_from(base: Base, factors: LoRAFactors) -> None:
    engine = DeltaEngine(base, ANSWERED, DeltaOptions(layers=(1, 3), tokens="response"))
    from_engine = engine.behavior(factors, top_k=4)
    options = TargetOptions(frozenset({"kl", "trajectory"}), (1, 3), top_k=4)
    examples = engine.batch.rows([0, 1] * 3)
    targets = TeacherTargets(FunctionalLoRA(base.model, factors.shapes), factors, examples, options)
    rows = targets.rows(range(3), [[0, 1]] * 3)
    trained = targets.outputs(range(3), rows, examples)
    assert from_engine.states is not None
    assert trained.states is not None
    for layer in (1, 3):
        torch.testing.assert_close(from_engine.states[layer], trained.states[layer])
    assert from_engine.predictions is not None
    assert trained.predictions is not None
    torch.testing.assert_close(from_engine.predictions.log_probs, trained.predictions.log_probs)
    assert len(from_engine.predictions.log_probs) == 3 * (2 + 3)  # answers and their end tokens


def trajectories(base: Base, teachers: LoRAFactors, cache_bytes: int) -> tuple[TeacherTargets, Evidence]:
    """Targets of two layers, and what the zero adapter does beside them."""
    examples = DeltaEngine(base, ANSWERED).batch.rows([0, 1] * 3)
    options = TargetOptions(frozenset({"trajectory"}), (1, 3), cache_bytes=cache_bytes)
    targets = TeacherTargets(FunctionalLoRA(base.model, teachers.shapes), teachers, examples, options)
    zero = observe(targets.functional, None, examples.input_ids, examples.predicts, layers=(1, 3))
    theirs = targets.outputs(range(3), targets.rows(range(3), [[0, 1]] * 3), examples)
    evidence = Evidence(teachers, owner=owners(examples, 2), states=zero.states, teacher_states=theirs.states, scale=targets.scale)
    return targets, evidence


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_layers_that_no_teacher_changes_are_not_compared(base: Base, factors: LoRAFactors, cache_bytes: int) -> None:
    late = {name: b * float(".layers.0." not in name) for name, b in factors.b.items()}
    targets, evidence = trajectories(base, replace(factors, b=late), cache_bytes)
    assert [layer for layer in (1, 3) if targets.scale[f"trajectory/{layer}"] == 0] == [1]
    assert trajectory_loss(evidence).item() == pytest.approx(1)
    _, evidence = trajectories(base, replace(factors, b={name: torch.zeros_like(b) for name, b in late.items()}), cache_bytes)
    with pytest.raises(InputError, match="objective trajectory has nothing to compare: the teachers change no hidden state"):
        trajectory_loss(evidence)


def test_teachers_are_not_run_for_terms_that_compare_none_of_their_outputs(base: Base, factors: LoRAFactors, monkeypatch) -> None:
    observed = []
    monkeypatch.setattr("llgbm.training.targets.observe", lambda *_, **__: observed.append(1) or Behavior(None, None))
    functional = FunctionalLoRA(base.model, factors.shapes)
    examples = DeltaEngine(base, ANSWERED).batch.rows([0, 1] * 3)
    targets = TeacherTargets(functional, factors, examples, TargetOptions(frozenset({"sft"}), ()))
    assert targets.outputs(range(3), targets.rows(range(3), [[0, 1]] * 3), examples) == Behavior(None, None)
    assert not targets.reads_teachers
    assert not observed


def test_behavior_is_selected_and_joined():
    parts = [Behavior(Predictions(torch.full((2, 3), float(i)), torch.full((2, 3), i)), {1: torch.full((2, 4), float(i))}) for i in (0, 1)]
    joined = Behavior.join(parts).select(torch.tensor([3, 0]))
    assert joined.predictions is not None
    assert joined.predictions.tokens is not None
    assert joined.states is not None
    assert joined.predictions.log_probs[:, 0].tolist() == [1, 0]
    assert joined.predictions.tokens[:, 0].tolist() == [1, 0]
    assert joined.states[1][:, 0].tolist() == [1, 0]


def test_top_predictions_keep_log_probabilities_of_the_whole_vocabulary():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    whole, some = top_predictions(logits, 0), top_predictions(logits, 2)
    assert whole.tokens is None
    assert some.tokens is not None
    assert some.tokens.tolist() == [[1, 2]]
    assert torch.equal(some.log_probs[0], whole.log_probs[0, [1, 2]])


@pytest.mark.numeric
@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_base_as_often_as_there_are_adapters_differs_from_those_that_change_nothing_by_exactly_zero(base: Base, count: int) -> None:
    """Of products with so few rows as one short probe makes, the rounding depends on their number."""
    engine = DeltaEngine(base, ProbeSet("short", ("",), ("a",)), DeltaOptions(layers=(1, 3), tokens="response"))
    zeros = LoRAFactors.initialize(engine.functional.shapes, 2, 4.0, count)
    own, again = engine.behavior(zeros, top_k=2), engine.behavior(None, top_k=2, times=count)
    assert own.states is not None
    assert again.states is not None
    assert all(torch.equal(own.states[layer], again.states[layer]) for layer in (1, 3))
    assert own.predictions is not None
    assert again.predictions is not None
    assert torch.equal(own.predictions.log_probs, again.predictions.log_probs)
