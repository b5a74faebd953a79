"""One step's comparison of generated adapters with their teachers, and their exact match on held-back tasks."""

import itertools
from collections.abc import Callable
from typing import Any

import torch

from llgbm.config import TrainingConfig
from llgbm.dataset import at_tokens
from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.measure import logits_bytes, row_bytes
from llgbm.losses import Evidence, check_tasks
from llgbm.models.writer import AdapterWriter
from llgbm.scoring import Score
from llgbm.training.conditions import ConditionTable
from llgbm.training.plan import StepPlan
from llgbm.training.probe_targets import ProbeTargets
from llgbm.training.rereading import Rereading
from llgbm.training.setup import TeacherSet
from llgbm.training.targets import TeacherTargets, owners
from llgbm.transfer import to_device

OPTIMIZER_COPIES = 3
"""Of the generator's parameters: gradients and two moments."""
READ_BASE = ("logits", "states", "practice", "guide")
"""Needs of a term that runs generated adapters through the base."""
ADAPTER_COPIES = 6
"""Of a generated adapter: as written, scaled and laid out, and the gradients of these."""
VALIDATION_WORDINGS = 4
"""Conditions of each held-back task, of one wording each, on which a checkpoint is judged."""


def generate(
    model: Callable,
    plan: StepPlan,
    train: TeacherSet,
    conditions: ConditionTable,
    device: torch.device,
    reword: bool,
    rereading: Rereading | None = None,
) -> dict[str, Any]:
    """Write the plan's adapters; `reword` also reads every task of the whole step in another wording.

    Args:
        rereading: What a generator that reads attributes reads instead.

    Returns:
        Fields of an `Evidence`. The other wordings are the whole step's, so that a step cut into parts has the same loss; beside them
        the part's own conditions count as if they were as many.
    """
    names = [train.tasks[k].name for k in plan.teachers]
    embeddings, mask = (to_device(x, device) for x in conditions.draw(names, plan.condition_seeds))
    if rereading is not None:
        levels = rereading.taught.levels
        told = to_device(levels[list(plan.teachers)], device)
        if not reword:
            return {"generated": model(embeddings, mask, told=told)}
        again, of_others = rereading.draw(plan)
        factors, read, read_again = model(embeddings, mask, tuple(to_device(x, device) for x in again), told=told)
        right = torch.cat([levels[list(plan.teachers)] * (len(plan.whole) / len(plan)), of_others])
        asked = levels[[k for k, _ in plan.whole]].sum() + of_others.sum()
        said = {"said": torch.cat([read, read_again], 1), "levels": to_device(right, device), "levels_asked": to_device(asked, device)}
        return {"generated": factors, **said}
    if not reword:
        return {"generated": model(embeddings, mask)}
    others = [train.tasks[k].name for k, _ in plan.whole]
    again = tuple(to_device(x, device) for x in conditions.draw(others, [f"{seed}/again" for _, seed in plan.whole]))
    factors, read, read_again = model(embeddings, mask, again)
    same = torch.tensor([[name == other for other in others] for name in names])
    check_tasks(same)
    return {"generated": factors, "read": read, "read_again": read_again, "same_task": to_device(same, device)}


def compare(
    generated: dict[str, Any],
    plan: StepPlan,
    train: TeacherSet,
    targets: TeacherTargets,
    probes: ProbeTargets | None,
    delta_loss_type: str,
) -> Evidence:
    """Run what `generate` wrote where the objective's terms need it, beside what the teachers did there."""
    needs, functional = targets.options.needs, targets.functional
    teacher = train.factors.select(plan.teachers) if needs("teacher") else None
    evidence = Evidence(**generated, teacher=teacher, scale=targets.scale, delta_loss_type=delta_loss_type)
    if needs("logits") or needs("states"):
        rows = targets.rows(plan.teachers, plan.examples)
        batch = train.examples.rows(rows).to(functional.device)
        layers = targets.options.layers if needs("states") else ()
        at = batch.predicts
        out = functional(
            evidence.generated,
            batch.input_ids,
            hidden_layers=layers,
            hidden_at=at,
            logits_at=at if needs("logits") else None,
            chunked=True,
        )
        theirs = targets.outputs(plan.teachers, rows, batch)
        evidence.owner = owners(batch, len(rows) // len(plan))
        evidence.logits, evidence.answers, evidence.predictions = out.any_logits, batch.targets, theirs.predictions
        evidence.states = {layer: at_tokens(out.hidden[layer], at) for layer in layers} or None
        evidence.teacher_states = theirs.states
    if probes is not None:
        probes.fill(evidence, plan)
    return evidence


def adapters_at_once(training: TrainingConfig, train: TeacherSet, targets: TeacherTargets, generator: AdapterWriter) -> int:
    """Adapters of a micro-batch: those the config asks for, or as many as fit into memory."""
    needs, functional, most = targets.options.needs, targets.functional, training.batch_size
    trained = sum(parameter.nbytes for parameter in generator.parameters())
    written = ADAPTER_COPIES * sum(4 * generator.spec.rank * (d_in + d_out) for d_in, d_out in generator.spec.shapes.values())
    if not any(map(needs, READ_BASE)):
        return functional.memory.at_once("training", written, most, OPTIMIZER_COPIES * trained)
    examples = training.examples_per_task + needs("practice") + needs("guide")
    answers = examples * int(train.examples.predicts.sum(1).max())
    row = row_bytes(functional, train.examples.input_ids.shape[1], backward=True, all_layers=needs("states"))
    fixed = OPTIMIZER_COPIES * trained + logits_bytes(functional, most * answers)
    return functional.memory.at_once("training", written + examples * row, most, fixed)


@torch.no_grad()
def validate(
    generator: AdapterWriter, functional: FunctionalLoRA, conditions: ConditionTable, held_back: TeacherSet, at_once: int
) -> dict[str, float]:
    """Score and negative log-likelihood (nats per response token) of generated adapters on held-back tasks, over several wordings."""
    was_training = generator.training
    generator.eval()
    scores = []
    for start, wording in itertools.product(range(0, len(held_back), at_once), range(VALIDATION_WORDINGS)):
        chosen = range(start, min(start + at_once, len(held_back)))
        embeddings, mask = conditions.fixed([held_back.tasks[k].name for k in chosen], wording)
        factors = generator(to_device(embeddings, functional.device), to_device(mask, functional.device))
        scores.append(held_back.score(functional, factors, chosen, held_back.rows_of(chosen)))
    generator.train(was_training)
    found = Score.join(scores)
    return {"score": found.mean_mark, "nll": found.nll}
