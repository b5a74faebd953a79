"""Objective terms: zero at the teacher, one at the zero adapter, equal to their formulas, and never silent."""

import math
from dataclasses import replace

import pytest
import torch
from tolerance import assert_near, relative
from torch.nn import functional as F

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import (
    AGREEMENT_TEMPERATURE,
    OBJECTIVES,
    TINY,
    DeltaOnlyLoss,
    Evidence,
    Predictions,
    active_terms,
    agreement_loss,
    check_fingerprints,
    check_tasks,
    check_teachers,
    delta_loss,
    mean_per_adapter,
    objective_loss,
    schedule_factor,
    token_kl,
)

pytestmark = pytest.mark.numeric
SHAPES = {"layers.0.q_proj": (6, 5), "layers.0.up_proj": (6, 9)}

WIDTHS = {"length": 18, "depth": 6}
"""Sums over B's 9 x 2 numbers or a vocabulary of 11, in a term: products, Grams or softmax, over pairs, tokens, modules, adapters."""


def random_factors(seed: int, n_adapters: int = 3, rank: int = 2) -> LoRAFactors:
    factors = LoRAFactors.initialize(SHAPES, rank, 2.0 * rank, n_adapters, torch.Generator().manual_seed(seed))
    for i, b in enumerate(factors.b.values()):
        b.normal_(generator=torch.Generator().manual_seed(100 * seed + i))
    return factors


def zero_factors() -> LoRAFactors:
    return random_factors(0).map(torch.zeros_like)


def dense(factors: LoRAFactors, name: str) -> torch.Tensor:
    return (factors.b[name].double() @ factors.a[name].double()) * factors.scaling[name].double()[:, None, None]


def behavior(seed: int = 0) -> Evidence:
    """Three adapters with 4, 1 and 2 response tokens."""
    g = torch.Generator().manual_seed(seed)
    logits, states = torch.randn(7, 11, generator=g), {1: torch.randn(7, 4, generator=g), 2: torch.randn(7, 4, generator=g)}
    return Evidence(
        generated=random_factors(1),
        owner=torch.tensor([0, 0, 0, 0, 1, 2, 2]),
        logits=logits,
        answers=torch.randint(11, (7,), generator=g),
        predictions=Predictions(torch.randn(7, 11, generator=g).log_softmax(-1)),
        states=states,
        teacher_states={layer: s + 1 for layer, s in states.items()},
        fingerprints=torch.randn(3, 8, generator=g),
        teacher_fingerprints=torch.randn(3, 8, generator=g),
        probe_logits=torch.randn(5, 11, generator=g),
        base_probe_logits=torch.randn(5, 11, generator=g),
        read=torch.randn(3, 2, 6, generator=g),
        read_again=torch.randn(4, 2, 6, generator=g),
        same_task=torch.tensor([[True, False, False, True], [False, True, False, False], [False, False, True, False]]),
        said=torch.randn(2, 7, 5, generator=g).log_softmax(-1),
        levels=torch.eye(5)[[0, 1, 2, 3, 4, 0, 1]],
        practiced=torch.randn(4, 5, generator=g),
        own_answers=torch.tensor([0, 1, 2, 3]),
        practiced_by=torch.tensor([0, 1, 1, 2]),
        guided=torch.randn(4, 5, generator=g),
        guidance=Predictions(torch.randn(4, 5, generator=g).log_softmax(-1)),
        guided_by=torch.tensor([0, 1, 1, 2]),
    )


@pytest.mark.parametrize("term", ["weight", "product"])
def test_structural_terms_are_zero_at_the_teacher_and_one_at_zero(term):
    teacher = random_factors(2)
    compute = OBJECTIVES[term].compute
    assert_near(compute(Evidence(random_factors(2), teacher)), 0, scale=1, **WIDTHS)
    assert_near(compute(Evidence(zero_factors(), teacher)), 1, **WIDTHS)


def test_product_equals_the_dense_formula():
    ours, theirs = random_factors(1), random_factors(2)
    expected = torch.stack(
        [(dense(ours, n) - dense(theirs, n)).square().sum((1, 2)) / dense(theirs, n).square().sum((1, 2)) for n in SHAPES]
    ).mean()
    assert_near(OBJECTIVES["product"].compute(Evidence(ours, theirs)), expected, **WIDTHS)


def test_product_ignores_the_gauge_and_weight_does_not():
    teacher, turned = random_factors(2), random_factors(2)
    mix = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    turned.a = {n: mix @ a for n, a in turned.a.items()}
    turned.b = {n: b @ mix.inverse() for n, b in turned.b.items()}
    assert_near(OBJECTIVES["product"].compute(Evidence(turned, teacher)), 0, scale=1, length=18, depth=8)  # turned there and back
    assert OBJECTIVES["weight"].compute(Evidence(turned, teacher)).item() > 0.1


def test_structural_terms_accept_a_teacher_of_smaller_rank_and_skip_what_it_lacks():
    small = random_factors(3, rank=1)
    small.b["layers.0.q_proj"].zero_()
    for term in ("weight", "product"):
        assert math.isfinite(OBJECTIVES[term].compute(Evidence(random_factors(1), small)).item())


def test_kl_equals_torch_and_is_zero_at_the_teacher():
    c = behavior()
    assert c.predictions is not None
    assert c.logits is not None
    assert c.owner is not None
    own, theirs = c.logits.double().log_softmax(-1), c.predictions.log_probs.double()
    expected = F.kl_div(own, theirs, reduction="none", log_target=True).sum(-1)
    means = torch.stack([expected[c.owner == k].mean() for k in range(3)])
    assert_near(OBJECTIVES["kl"].compute(c), means.mean(), **WIDTHS)
    c.predictions = Predictions(c.logits.log_softmax(-1))
    assert_near(OBJECTIVES["kl"].compute(c), 0, scale=c.predictions.log_probs, **WIDTHS)


def test_kl_of_near_distributions_keeps_its_digits():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 100, generator=rng)
    near = logits + 1e-2 * torch.randn(50, 100, generator=rng)
    exact = token_kl(Predictions(logits.log_softmax(-1)), near)
    double = F.kl_div(near.double().log_softmax(-1), logits.double().log_softmax(-1), reduction="none", log_target=True).sum(-1)
    roundings = logits.softmax(-1).norm(dim=-1)  # of terms of size p: p, log(p / q) - 1, their product, p log(p / q) - p + q
    assert_near(exact, double, scale=roundings, length=1, depth=4)
    assert exact.min() > 100 * roundings.max() * torch.finfo(torch.float32).eps


def test_top_k_kl_is_a_lower_bound_that_reaches_the_full_one():
    logits, full = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)), torch.arange(36.0).view(4, 9).sin().log_softmax(-1)
    exact = token_kl(Predictions(full), logits)
    previous, rounding_error = torch.zeros(4), relative(**WIDTHS)
    for k in (1, 4, 8):
        values, tokens = full.topk(k)
        found = token_kl(Predictions(values, tokens), logits)
        assert (found <= exact * (1 + rounding_error)).all()
        assert (found >= previous * (1 - rounding_error)).all()
        previous = found
    assert_near(previous, exact, **WIDTHS)


def test_sft_is_cross_entropy_per_adapter():
    c = behavior()
    assert c.logits is not None
    assert c.answers is not None
    assert c.owner is not None
    losses = F.cross_entropy(c.logits.double(), c.answers, reduction="none")
    expected = torch.stack([losses[c.owner == k].mean() for k in range(3)]).mean()
    assert_near(OBJECTIVES["sft"].compute(c), expected, **WIDTHS)


def test_scale_divides_and_layers_weigh_the_same():
    c = behavior()
    assert OBJECTIVES["trajectory"].compute(c).item() == pytest.approx(4.0)
    c.scale = {"trajectory/1": 4.0, "trajectory/2": 2.0}
    assert OBJECTIVES["trajectory"].compute(c).item() == pytest.approx(1.5)


def test_trajectory_skips_layers_the_teachers_leave_alone():
    c = behavior()
    c.scale = {"trajectory/1": 4.0, "trajectory/2": 0.0}
    assert OBJECTIVES["trajectory"].compute(c).item() == pytest.approx(1.0)
    c.scale = {"trajectory/1": 0.0, "trajectory/2": 0.0}
    with pytest.raises(InputError, match="the teachers change no hidden state"):
        OBJECTIVES["trajectory"].compute(c)


@pytest.mark.parametrize("kind", ["mse", "cosine", "combined"])
def test_delta_is_zero_at_the_teacher_and_relative(kind):
    c = behavior()
    c.delta_loss_type = kind
    assert c.fingerprints is not None
    c.teacher_fingerprints = c.fingerprints.clone()
    assert_near(delta_loss(c), 0, scale=1, **WIDTHS)
    value = delta_loss(behavior())
    scaled = behavior()
    assert scaled.fingerprints is not None
    assert scaled.teacher_fingerprints is not None
    scaled.fingerprints, scaled.teacher_fingerprints = 10 * scaled.fingerprints, 10 * scaled.teacher_fingerprints
    assert_near(delta_loss(scaled), value, **WIDTHS)


def test_norm_is_one_for_the_teachers_themselves():
    teacher = random_factors(2)
    per_module = sum(dense(teacher, n).square().sum((1, 2)) for n in SHAPES).mean().item() / len(SHAPES)
    assert_near(OBJECTIVES["norm"].compute(Evidence(teacher, scale={"norm": per_module})), 1, **WIDTHS)


def test_variance_is_one_when_every_task_gets_the_same():
    same = random_factors(2).select([0, 0, 0])
    assert_near(OBJECTIVES["variance"].compute(Evidence(same)), 1 - math.sqrt(TINY), **WIDTHS)
    spread = {f"variance/{n}": random_factors(2).b[n].double().flatten(1).var(0).mean().sqrt().item() for n in SHAPES}
    assert_near(OBJECTIVES["variance"].compute(Evidence(random_factors(2), scale=spread)), 0, scale=1, **WIDTHS)
    wide = {name: 2 * value for name, value in spread.items()}
    assert_near(OBJECTIVES["variance"].compute(Evidence(random_factors(2), scale=wide)), 0.5, **WIDTHS)


def test_tether_is_zero_at_the_base():
    c = behavior()
    c.probe_logits = c.base_probe_logits
    assert_near(OBJECTIVES["tether"].compute(c), 0, scale=c.base_probe_logits.log_softmax(-1), **WIDTHS)


@pytest.mark.parametrize("term", [t for t in OBJECTIVES if t not in ("norm", "variance")])
def test_a_term_with_nothing_to_compare_is_an_error(term):
    with pytest.raises(InputError, match=f"objective {term} has nothing to compare"):
        OBJECTIVES[term].compute(Evidence(random_factors(1)))


def test_zero_teachers_are_nothing_to_compare():
    zero = zero_factors()
    for term in ("weight", "product"):
        assert OBJECTIVES[term].compute(Evidence(random_factors(1), zero)) == 0  # a step's own teachers, not all of them
        check_teachers(iter([zero, random_factors(1)]), term)
        with pytest.raises(InputError, match=f"objective {term} has nothing to compare: every teacher's weight change is zero"):
            check_teachers(iter([zero, zero]), term)
    with pytest.raises(InputError, match="fingerprints are all zero"):
        check_fingerprints(torch.zeros(3, 8))


def test_a_teacher_that_moves_nothing_adds_nothing_however_a_step_is_cut():
    c = behavior()
    c.teacher_fingerprints[1] = 0
    whole, (own, theirs) = delta_loss(c), (c.fingerprints, c.teacher_fingerprints)
    parts = []
    for row in range(3):
        c.fingerprints, c.teacher_fingerprints = own[row : row + 1], theirs[row : row + 1]
        parts.append(delta_loss(c))
    assert parts[1] == 0
    assert torch.stack(parts).mean() == pytest.approx(whole.item())


def test_agreement_equals_its_formula_and_finds_the_task_among_the_others():
    c = behavior()
    own, other = ((x - c.read_again.mean(0)).double() for x in (c.read, c.read_again))
    slots = [(own[:, s], other[:, s]) for s in range(2)]
    cosine = sum(x @ y.T / x.norm(dim=1)[:, None] / y.norm(dim=1) for x, y in slots) / 2
    odds = (cosine / AGREEMENT_TEMPERATURE).exp()
    expected = -torch.log((odds * c.same_task).sum(1) / odds.sum(1)).mean() / math.log(4)
    assert_near(agreement_loss(c), expected, scale=1 / AGREEMENT_TEMPERATURE, **WIDTHS)
    tasks, eye = torch.randn(5, 2, 6), torch.eye(5, dtype=torch.bool)
    assert float(agreement_loss(replace(c, read=tasks, read_again=tasks, same_task=eye))) < 0.1
    assert float(agreement_loss(replace(c, read=tasks, read_again=tasks.roll(1, 0), same_task=eye))) > 1
    with pytest.raises(InputError, match="objective agreement has nothing to compare: it needs at least 2 tasks per step"):
        check_tasks(torch.ones(3, 4, dtype=torch.bool))
    check_tasks(c.same_task)


def test_other_faults_are_named():
    other = LoRAFactors.initialize({"x": (2, 2)}, 1, 1.0)
    with pytest.raises(InputError, match="share no module"):
        OBJECTIVES["product"].compute(Evidence(random_factors(1), other))
    with pytest.raises(InputError, match="needs at least 2 tasks in a micro-batch"):
        OBJECTIVES["variance"].compute(Evidence(random_factors(1, n_adapters=1)))
    c = behavior()
    c.delta_loss_type = "mae"
    with pytest.raises(InputError, match="delta_loss_type 'mae' is unknown; choose one of mse, cosine, combined"):
        delta_loss(c)
    c.logits, c.answers = torch.zeros(0, 11), torch.zeros(0, dtype=torch.long)
    with pytest.raises(InputError, match="no response tokens"):
        OBJECTIVES["sft"].compute(c)


def test_weights_select_terms():
    assert active_terms({"kl": 1.0, "product": 0.0}) == {"kl": 1.0}
    with pytest.raises(InputError, match="unknown objective 'prodct'; did you mean product"):
        active_terms({"prodct": 1.0})
    with pytest.raises(InputError, match=r"objective\.kl is -1"):
        active_terms({"kl": -1.0})
    with pytest.raises(InputError, match="every weight in objective is 0"):
        active_terms({"kl": 0.0})


def test_the_objective_is_the_weighted_sum():
    c = behavior()
    total, terms = objective_loss(c, {"kl": 2.0, "sft": 0.5})
    assert_near(total, 2 * terms["kl"].item() + 0.5 * terms["sft"].item(), length=2, depth=1)


@pytest.mark.parametrize("term", list(OBJECTIVES))
def test_every_term_has_a_finite_gradient(term):
    c = behavior()
    c.teacher = random_factors(5)
    leaves = [t.requires_grad_() for t in c.generated.tensors()]
    assert c.logits is not None
    assert c.states is not None
    assert c.fingerprints is not None
    assert c.probe_logits is not None
    assert c.read is not None
    assert c.said is not None
    assert isinstance(c.practiced, torch.Tensor)
    assert isinstance(c.guided, torch.Tensor)
    leaves += [c.guided.requires_grad_(), c.read.requires_grad_(), c.said.requires_grad_(), c.practiced.requires_grad_()]
    leaves += [c.logits.requires_grad_(), c.fingerprints.requires_grad_(), c.probe_logits.requires_grad_()]
    leaves += [s.requires_grad_() for s in c.states.values()]
    loss, _ = objective_loss(c, {term: 1.0})
    gradients = [g for g in torch.autograd.grad(loss, leaves, allow_unused=True) if g is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients)


def test_structural_gradients_are_finite_at_the_zero_adapter():
    start = random_factors(1).map(torch.clone)
    start.b = {n: torch.zeros_like(b).requires_grad_() for n, b in start.b.items()}
    for term in ("weight", "product", "norm", "variance"):
        loss, _ = objective_loss(Evidence(start, random_factors(2)), {term: 1.0})
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(start.b.values())))


def test_mean_per_adapter_counts_each_adapters_tokens():
    means = mean_per_adapter(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [2.0, 0.0, 5.0]


def test_schedules():
    assert schedule_factor("constant", 0, 10, 100) == 1
    assert [schedule_factor("linear", s, 4, 100) for s in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]
    assert [schedule_factor("step", s, 4, 100) for s in (3, 4)] == [0, 1]
    assert schedule_factor("cosine", 1, 4, 100) == pytest.approx(0.5)
    assert schedule_factor("warmup_cosine", 99, 0, 99) == pytest.approx(0)
    assert schedule_factor("linear", 0, 0, 100) == 1
    with pytest.raises(InputError, match="schedule 'lineer' is unknown"):
        schedule_factor("lineer", 0, 1, 1)


def test_delta_only_loss_weighs_its_regularizers():
    loss = DeltaOnlyLoss("cosine", norm=0.5, variance=0.0, tether=0.0)
    total, terms = loss(behavior())
    assert set(terms) == {"delta", "norm"}
    assert_near(total, terms["delta"].item() + 0.5 * terms["norm"].item(), length=2, depth=1)
