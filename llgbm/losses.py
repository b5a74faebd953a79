"""Every term of the objective: registered by name, weighted, and normalized so that a weight means the same on any base.

The behavioral and structural terms are 1.0 for the zero adapter (on average over tasks) and 0.0 for a perfect copy.

Letters: K adapters, n response tokens of all their examples, V vocabulary (or the k most likely tokens), F fingerprint,
S slots, C conditions, R readers, L levels of attributes.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from llgbm.delta.behavior import Predictions
from llgbm.errors import InputError
from llgbm.functional_lora import ChunkedLogits, Logits, by_token
from llgbm.lora.distance import product_distance_by_module
from llgbm.lora.factors import LoRAFactors, product_inner

TINY = 1e-12
AGREEMENT_TEMPERATURE = 0.1
T = TypeVar("T")


@dataclass
class Evidence:
    """What one step offers to compare; a term raises InputError when its part is None."""

    generated: LoRAFactors
    teacher: LoRAFactors | None = None
    owner: Int[Tensor, " n"] | None = None
    """The adapter each response token belongs to."""
    logits: Float[Tensor, "n V"] | ChunkedLogits | None = None
    """The generated adapters' logits at the positions that predict response tokens."""
    answers: Int[Tensor, " n"] | None = None
    """The gold response tokens."""
    predictions: Predictions | None = None
    states: dict[int, Float[Tensor, "n D"]] | None = None
    """The generated adapters' hidden states at response tokens, by layer."""
    teacher_states: dict[int, Float[Tensor, "n D"]] | None = None
    fingerprints: Float[Tensor, "J F"] | None = None
    """Delta fingerprints of the first J generated adapters."""
    probe_weight: float = 1.0
    """Weight of what probes say here, where a step is cut into parts that hold more or fewer of its probed adapters."""
    teacher_fingerprints: Float[Tensor, "J F"] | None = None
    probe_logits: Float[Tensor, "p V"] | ChunkedLogits | None = None
    """The generated adapters' logits on probe texts, and the base's."""
    base_probe_logits: Float[Tensor, "p V"] | ChunkedLogits | None = None
    read: Float[Tensor, "K S H"] | None = None
    """What the generator read from each adapter's condition."""
    read_again: Float[Tensor, "M S H"] | None = None
    """What it reads from the step's M tasks in other wordings."""
    same_task: Bool[Tensor, "K M"] | None = None
    """Whether an adapter's task is the one worded anew."""
    said: Float[Tensor, "R C L"] | None = None
    """Log-probabilities of attributes' levels that the generator read from conditions, in all wordings."""
    levels: Float[Tensor, "C L"] | None = None
    """Which levels are right: one of each attribute, none of one that a task lacks; times what the condition counts."""
    levels_asked: Float[Tensor, ""] | None = None
    """How many levels the whole step asks for, where this is a part of one; else those that are right."""
    practiced: Logits | None = None
    """Logits of as many other adapters, of mixed attributes, at the m tokens of answers of their own."""
    own_answers: Int[Tensor, " m"] | None = None
    practiced_by: Int[Tensor, " m"] | None = None
    """The adapter of each token."""
    guided: Logits | None = None
    """Logits of as many other adapters, of tasks without a teacher, at the g tokens of the answers that a guide gave."""
    guidance: Predictions | None = None
    """What the guide, which reads the request too, predicts there."""
    guided_by: Int[Tensor, " g"] | None = None
    """The adapter of each token."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """Per term, its raw value for the zero adapter (averaged over training tasks); 1 where absent."""
    delta_loss_type: str = "mse"


@dataclass(frozen=True)
class Objective:
    """One registered term."""

    compute: Callable[[Evidence], Tensor]
    needs: frozenset[str]
    """What the training loop has to prepare: teacher, logits, predictions, states, fingerprints, probe_logits, wordings,
practice, guide."""
    behavioral: bool
    """Whether `lambda_delta` and its schedule apply."""
    paper: str


def weight_loss(c: Evidence) -> Tensor:
    """Squared error of A and of B, each relative to the teacher's squared norm, averaged over modules and adapters.

    Comparable only between teachers that share their initial A: the same product has many factorizations.
    """
    teacher = _have(c.teacher, "weight", "teachers")
    errors = []
    for name in c.generated.module_names:
        own = c.generated.scaling[name][:, None, None]
        a, b, teacher_b = c.generated.a[name], c.generated.b[name] * own, teacher.b[name] * teacher.scaling[name][:, None, None]
        teacher_a = F.pad(teacher.a[name], (0, 0, 0, a.shape[1] - teacher.a[name].shape[1]))
        teacher_b = F.pad(teacher_b, (0, b.shape[2] - teacher_b.shape[2]))
        for ours, theirs in ((a, teacher_a), (b, teacher_b)):
            errors.append((_square(ours - theirs), _square(theirs)))
    return _relative(errors, "weight")


def product_loss(c: Evidence) -> Tensor:
    """||BA - BA_teacher||^2 / ||BA_teacher||^2 through r x r Gram matrices, averaged over modules and adapters."""
    teacher = _have(c.teacher, "product", "teachers")
    return _relative(list(product_distance_by_module(c.generated, teacher).values()), "product")


def kl_loss(c: Evidence) -> Tensor:
    """KL(teacher || generated) at response tokens, mean per token, then per adapter.

    With the teacher's k most likely tokens, the rest of the vocabulary counts as one outcome.
    """
    predictions = _have(c.predictions, "kl", "teacher logits at response tokens")
    return _per_adapter(token_kl(predictions, _have(c.logits, "kl", "generated logits")), c.owner, c, "kl")


def sft_loss(c: Evidence) -> Tensor:
    """Cross-entropy of the gold response tokens, mean per token, then per adapter."""
    logits, answers = _have(c.logits, "sft", "generated logits"), _have(c.answers, "sft", "labeled examples")
    return _per_adapter(token_nll(logits, answers), c.owner, c, "sft")


def trajectory_loss(c: Evidence) -> Tensor:
    """Squared distance to the teacher's hidden states at response tokens; layers weigh the same, whatever their scale."""
    states, theirs = _have(c.states, "trajectory", "generated hidden states"), _have(c.teacher_states, "trajectory", "teacher states")
    moved = [layer for layer in states if c.scale.get(f"trajectory/{layer}", 1.0) > TINY]
    if not moved:
        raise InputError("objective trajectory has nothing to compare: the teachers change no hidden state")
    distances = [(states[x].float() - theirs[x].float()).square().sum(-1) / c.scale.get(f"trajectory/{x}", 1.0) for x in moved]
    return _per_adapter(torch.stack(distances).mean(0), c.owner, c, "trajectory")


def delta_loss(c: Evidence) -> Tensor:
    """`delta_distance` of the generated adapters' fingerprints to their teachers'."""
    own, theirs = _have(c.fingerprints, "delta", "fingerprints"), _have(c.teacher_fingerprints, "delta", "teacher fingerprints")
    return c.probe_weight * delta_distance(own, theirs, c.delta_loss_type)


def delta_distance(own: Float[Tensor, "J F"], theirs: Float[Tensor, "J F"], kind: str) -> Float[Tensor, ""]:
    """Relative squared error (mse), 1 - cosine (cosine), or their sum (combined), averaged over rows; where theirs is zero, zero.

    Raises:
        InputError: The kind is unknown.
    """
    norm = theirs.square().sum(-1)
    parts = {
        "mse": (own - theirs).square().sum(-1) / norm.clamp_min(TINY),
        "cosine": 1 - F.cosine_similarity(own, theirs, dim=-1),
    }
    parts["combined"] = parts["mse"] + parts["cosine"]
    if kind not in parts:
        raise InputError(f"training.delta_loss_type {kind!r} is unknown; choose one of {', '.join(parts)}")
    return torch.where(norm > TINY, parts[kind], 0.0).mean()


def check_fingerprints(theirs: Float[Tensor, "K F"]) -> None:
    """InputError when no teacher's fingerprint differs from zero."""
    if not (theirs.square().sum(-1) > TINY).any():
        raise InputError("objective delta has nothing to compare: the teachers' fingerprints are all zero")


def check_teachers(parts: Iterable[LoRAFactors], term: str) -> None:
    """InputError when no teacher changes anything; what is read of them ends with the first that does."""
    if not any(bool(b.any()) for part in parts for b in part.b.values()):
        raise InputError(f"objective {term} has nothing to compare: every teacher's weight change is zero")


def check_tasks(same: Bool[Tensor, "K M"]) -> None:
    """InputError when a step's conditions are all of one task, which tells `agreement` nothing."""
    if bool(same.all()):
        raise InputError("objective agreement has nothing to compare: it needs at least 2 tasks per step")


def agreement_loss(c: Evidence) -> Tensor:
    """How badly a condition is told from the step's others by what another wording of its task reads as; 1 at chance.

    Cross-entropy of the right task over cosine similarities, averaged over slots, in units of log M: it asks for what wordings
    of a task have in common and no other task has.

    Source: InfoNCE, van den Oord et al. 2018, arXiv:1807.03748.
    """
    read, again = _have(c.read, "agreement", "conditions"), _have(c.read_again, "agreement", "other wordings")
    same = _have(c.same_task, "agreement", "tasks of the conditions")
    center = again.float().mean(0)
    own, other = (F.normalize(x.float() - center, dim=-1).flatten(1) / x.shape[1] ** 0.5 for x in (read, again))
    log_p = (own @ other.T / AGREEMENT_TEMPERATURE).log_softmax(1)
    return -log_p.masked_fill(~same, -torch.inf).logsumexp(1).mean() / math.log(len(again))


def attributes_loss(c: Evidence) -> Tensor:
    """Cross-entropy of the levels that conditions are read as, mean over readers and the attributes that tasks have."""
    said, levels = _have(c.said, "attributes", "attributes read from conditions"), _have(c.levels, "attributes", "attributes of tasks")
    asked = levels.sum() if c.levels_asked is None else c.levels_asked
    return -(said.float().mean(0) * levels).sum() / asked.clamp_min(1.0)


def practice_loss(c: Evidence) -> Tensor:
    """Cross-entropy of adapters' own greedy answers, mean per token, then per adapter, in nats."""
    logits, answers = _have(c.practiced, "practice", "adapters of mixed attributes"), _have(c.own_answers, "practice", "their answers")
    owner = _have(c.practiced_by, "practice", "their answers")
    return _per_adapter(token_nll(logits, answers), owner, c, "practice")


def context_loss(c: Evidence) -> Tensor:
    """KL(guide || generated) where the guide reads request and input, the adapter the input alone; mean per token, then per adapter."""
    predictions = _have(c.guidance, "context", "predictions of a guide")
    guided, owner = _have(c.guided, "context", "adapters of tasks without a teacher"), _have(c.guided_by, "context", "their tokens")
    return _per_adapter(token_kl(predictions, guided), owner, c, "context")


def norm_loss(c: Evidence) -> Tensor:
    """||s BA||^2 summed over modules, relative to the teachers' mean; keeps behavior-only training from inflating weights."""
    inner = product_inner(c.generated, c.generated)
    return inner.mean() / len(c.generated.module_names) / c.scale.get("norm", 1.0)


def variance_loss(c: Evidence) -> Tensor:
    """How far the spread of B between tasks falls short of the teachers'; 1 when every task gets the same B.

    Source: the variance hinge of VICReg, Bardes et al. 2021, arXiv:2105.04906.
    """
    if c.generated.n_adapters < 2:
        raise InputError("objective variance has nothing to compare: it needs at least 2 tasks in a micro-batch, training.batch_size")
    shortfalls = []
    for name in c.generated.module_names:
        b = c.generated.b[name].flatten(1)
        spread = (b.var(0).mean() + TINY).sqrt()
        shortfalls.append(F.relu(1 - spread / c.scale.get(f"variance/{name}", 1.0)))
    return torch.stack(shortfalls).mean()


def tether_loss(c: Evidence) -> Tensor:
    """KL(base || generated) on the probes, in nats per token: what the adapter changes where it should not."""
    own, base = _have(c.probe_logits, "tether", "probe logits"), _have(c.base_probe_logits, "tether", "base logits on probes")
    return c.probe_weight * by_token(lambda own, base: _kl(own, base.float().log_softmax(-1)), own, base).mean()


OBJECTIVES: dict[str, Objective] = {
    "weight": Objective(weight_loss, frozenset({"teacher"}), False, "Drag-and-Drop LLMs, arXiv:2506.16406"),
    "product": Objective(product_loss, frozenset({"teacher"}), False, "arXiv:2503.17138 (structural and behavioral losses)"),
    "delta": Objective(delta_loss, frozenset({"fingerprints"}), True, "Delta Activations, arXiv:2509.04442"),
    "trajectory": Objective(trajectory_loss, frozenset({"states"}), True, "FitNets, arXiv:1412.6550"),
    "kl": Objective(kl_loss, frozenset({"logits", "predictions"}), True, "distillation, arXiv:1503.02531; Doc-to-LoRA, arXiv:2602.15902"),
    "sft": Objective(sft_loss, frozenset({"logits"}), True, "Text-to-LoRA, arXiv:2506.06105"),
    "agreement": Objective(agreement_loss, frozenset({"wordings"}), False, "InfoNCE, arXiv:1807.03748"),
    "attributes": Objective(attributes_loss, frozenset({"wordings"}), False, "concept bottlenecks, arXiv:2007.04612"),
    "practice": Objective(practice_loss, frozenset({"practice"}), False, "self-training, doi:10.3115/981658.981684"),
    "context": Objective(context_loss, frozenset({"guide"}), True, "context distillation, arXiv:2209.15189; Doc-to-LoRA, arXiv:2602.15902"),
    "norm": Objective(norm_loss, frozenset(), False, "weight decay on the product BA"),
    "variance": Objective(variance_loss, frozenset(), False, "VICReg, arXiv:2105.04906"),
    "tether": Objective(tether_loss, frozenset({"probe_logits"}), True, "KL penalty of RLHF, arXiv:1909.08593"),
}
"""Every term `objective.<name>` can weigh."""


def active_terms(weights: Mapping[str, float]) -> dict[str, float]:
    """The terms with a weight other than zero.

    Raises:
        InputError: A name that is no term, a weight that is negative or not finite, or no term at all.
    """
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            near = difflib.get_close_matches(name, OBJECTIVES, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(f"unknown objective {name!r}; {hint}known: {', '.join(OBJECTIVES)}")
        if not math.isfinite(weight) or weight < 0:
            raise InputError(f"objective.{name} is {weight}; give a weight of 0 or more")
    active = {name: weight for name, weight in weights.items() if weight}
    if not active:
        raise InputError(f"every weight in objective is 0, so there is nothing to train; set one of {', '.join(OBJECTIVES)}")
    return active


def objective_loss(evidence: Evidence, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and each term unweighted and detached."""
    terms = {name: OBJECTIVES[name].compute(evidence) for name in weights}
    total = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
    return total, {name: value.detach() for name, value in terms.items()}


def schedule_factor(kind: str, step: int, warmup_steps: int, total_steps: int) -> float:
    """Factor in [0, 1] of a term's weight at a step counted from 0.

    `constant` is always 1; `linear` rises over the warm-up and stays; `step` jumps from 0 to 1 at its end; `cosine`
    rises over the warm-up along half a cosine and stays; `warmup_cosine` rises linearly and falls to 0 by the last step.
    """
    risen = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    fallen = max(0, step - warmup_steps) / max(1, total_steps - warmup_steps)
    factors = {
        "constant": 1.0,
        "linear": risen,
        "step": float(step >= warmup_steps),
        "cosine": 0.5 - 0.5 * math.cos(math.pi * risen),
        "warmup_cosine": risen * (0.5 + 0.5 * math.cos(math.pi * min(1.0, fallen))),
    }
    if kind not in factors:
        raise InputError(f"schedule {kind!r} is unknown; choose one of {', '.join(factors)}")
    return factors[kind]


def parse_schedules(entries: Sequence[str]) -> dict[str, str]:
    """Term -> schedule of entries such as `kl:cosine`; InputError for an entry of another form or an unknown name."""
    schedules = {}
    for entry in entries:
        term, colon, kind = entry.partition(":")
        if not colon or term not in OBJECTIVES:
            raise InputError(f"training.schedules entry {entry!r} is not term:schedule with a term of {', '.join(OBJECTIVES)}")
        schedule_factor(kind, 0, 1, 1)
        schedules[term] = kind
    return schedules


def token_nll(logits: Logits, answers: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Negative log-likelihood of each token's answer, in nats."""
    return by_token(lambda own, gold: F.cross_entropy(own.float(), gold, reduction="none"), logits, answers)


def token_kl(teacher: Predictions, logits: Logits) -> Float[Tensor, " n"]:
    """KL(teacher || softmax(logits)) in nats for each token.

    Summed as p log(p / q) - p + q: a normalizer's rounding error, which moves all of log q, cancels, so near distributions keep digits.
    """
    if teacher.tokens is None:
        return by_token(_kl, logits, teacher.log_probs)
    return by_token(_kl_of_top, logits, teacher.log_probs, teacher.tokens)


def _kl(logits: Tensor, log_probs: Tensor) -> Tensor:
    own, theirs = logits.float().log_softmax(-1), log_probs.float()
    return (theirs.exp() * (theirs - own - 1) + own.exp()).sum(-1)


def _kl_of_top(logits: Tensor, log_probs: Tensor, tokens: Tensor) -> Tensor:
    own, theirs = logits.float().log_softmax(-1).gather(-1, tokens), log_probs.float()
    rest, own_rest = ((1 - x.exp().sum(-1)).clamp_min(1e-7) for x in (theirs, own))
    return (theirs.exp() * (theirs - own)).sum(-1) + rest * (rest.log() - own_rest.log())


def mean_per_adapter(values: Float[Tensor, " n"], owner: Int[Tensor, " n"], n_adapters: int) -> Float[Tensor, " K"]:
    """Mean of each adapter's values."""
    sums = values.new_zeros(n_adapters).index_add(0, owner, values)
    return sums / torch.bincount(owner, minlength=n_adapters).clamp_min(1)


class DeltaOnlyLoss(nn.Module):
    """Behavior alone: the delta loss, regularizers on the generated weights, and an optional KL tether to the base."""

    def __init__(self, loss_type: str = "mse", norm: float = 0.01, variance: float = 0.01, tether: float = 0.0) -> None:
        super().__init__()
        self.loss_type = loss_type
        self.weights = active_terms({"delta": 1.0, "norm": norm, "variance": variance, "tether": tether})

    def forward(self, evidence: Evidence) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and its terms; `comparison` holds fingerprints, and probe logits when tethered."""
        evidence.delta_loss_type = self.loss_type
        return objective_loss(evidence, self.weights)


def _have(value: T | None, term: str, what: str) -> T:
    if value is None:
        raise InputError(f"objective {term} has nothing to compare: no {what} were given")
    return value


def _square(x: Tensor) -> Tensor:
    return x.float().square().flatten(1).sum(1)


def _relative(errors: list[tuple[Tensor, Tensor]], term: str) -> Tensor:
    """Mean of error / norm over modules and adapters, leaving out what a teacher does not have."""
    if not errors:
        raise InputError(f"objective {term} has nothing to compare: generator and teachers share no module")
    error, norm = (torch.stack(part) for part in zip(*errors, strict=True))
    present = norm > TINY
    ratio = torch.where(present, error / torch.where(present, norm, 1.0), 0.0)
    return ratio.sum() / present.sum().clamp_min(1)


def _per_adapter(values: Tensor, owner: Tensor | None, c: Evidence, term: str) -> Tensor:
    """Tokens' values, of each adapter alike, in units of the term's scale."""
    if not len(values):
        raise InputError(f"objective {term} has nothing to compare: no response tokens in this batch")
    owner = _have(owner, term, "owners of response tokens")
    return mean_per_adapter(values, owner, c.generated.n_adapters).mean() / c.scale.get(term, 1.0)
