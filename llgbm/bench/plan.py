"""`llgbm bench plan`: what `llgbm plan` says of steps on three bases, against these steps themselves.

The costs are measured first, on other models than these. A step is the stage's own: `TeacherGroup.step`, a training step by
`training.step.compare`, `scoring.score`; the plan knows the base's config and how many rows of which length there are.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llgbm.bench.clock import alone
from llgbm.bench.memory import save_base
from llgbm.bench.step import WEIGHTS, encode_step, prepare_step
from llgbm.config import ExperimentConfig, ModelConfig, ObjectiveConfig
from llgbm.dataset import TokenBatch
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import target_shapes
from llgbm.losses import objective_loss
from llgbm.memory import GIB, free_bytes, peak_bytes
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.planning.costs import UnitCosts, calibrate
from llgbm.planning.paper import paper_base, weights_bytes
from llgbm.planning.stages import rows_bytes
from llgbm.planning.steps import EMBEDDING_DIM, VECTORS, Generator, Rows, Teachers, forward, share_of_layers
from llgbm.planning.work import Work, count, on_paper
from llgbm.scoring import ADAPTER_COPIES as SCORED_COPIES
from llgbm.scoring import score
from llgbm.training.step import ADAPTER_COPIES, OPTIMIZER_COPIES, compare
from llgbm.zoo.base import Base, load_configured
from llgbm.zoo.named import MICRO, SMOLLM2, smollm2_file
from llgbm.zoo.suites import load_suite
from llgbm.zoo.trainer import ADAPTER_COPIES as TEACHER_COPIES
from llgbm.zoo.trainer import TeacherGroup, make_lesson

ADAPTERS, EACH = {MICRO: 40, SMOLLM2: 8, "random-500m": 4}, 2
"""Adapters of a step by base, and rows of each."""


@dataclass(frozen=True)
class Step:
    """A step that was done, and the same step on paper."""

    stage: str
    run: Callable[[], Any]
    on_paper: Callable[[FunctionalLoRA, Rows], Work]
    held_bytes: float
    """What is there before it, the base and all."""
    planned_bytes: Callable[[FunctionalLoRA, Rows], float]


def bench_plan(config: ExperimentConfig, repeats: int = 3) -> dict:
    """Planned and measured seconds and bytes of three steps on each base; `smollm2` where it is installed."""
    costs = calibrate(config.model.device, config.model.dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "random-500m"
        save_base(folder)
        bases = {MICRO: (MICRO, "micro"), "random-500m": (str(folder), "micro")}
        if smollm2_file() is not None:
            bases[SMOLLM2] = (SMOLLM2, "words")
        rows = [row for base, (place, suite) in bases.items() for row in _of_base(base, place, suite, config, costs, repeats)]
    worst = max(max(row["planned_s"] / row["measured_s"], row["measured_s"] / row["planned_s"]) for row in rows)
    worst_memory = max(max(row["planned_gib"] / row["measured_gib"], row["measured_gib"] / row["planned_gib"]) for row in rows)
    return {"worst_time_factor": worst, "worst_memory_factor": worst_memory, "threads": torch.get_num_threads(), "rows": rows}


def _of_base(name: str, place: str, suite: str, config: ExperimentConfig, costs: UnitCosts, repeats: int) -> Iterator[dict[str, Any]]:
    model = ModelConfig(place, config.model.dtype, config.model.device)
    objective = ObjectiveConfig(**WEIGHTS)
    config = replace(config, model=model, objective=objective, zoo=replace(config.zoo, suite=suite, batch_size=EACH))
    base = load_configured(model)
    batch = encode_step(base, load_suite(suite), ADAPTERS[name], EACH)
    for step in (_teachers(base, config, ADAPTERS[name]), _generator(base, config, batch), _scoring(base, config, batch)):
        rows = Rows(ADAPTERS[name], EACH, batch.input_ids.shape[1], int(batch.predicts.sum(1).max()))
        step.run()
        measured = step.held_bytes + peak_bytes(step.run, base.model.device)
        with on_paper():
            paper = paper_base(model, config.lora.target_modules, costs.kind, free_bytes(torch.device("cpu")))
            planned, planned_bytes = costs.seconds(step.on_paper(paper, rows)), step.planned_bytes(paper, rows)
        seconds = min(alone(step.run) for _ in range(repeats))
        yield {
            "base": name,
            "step": step.stage,
            "planned_s": planned,
            "measured_s": seconds,
            "time_ratio": planned / seconds,
            "planned_gib": planned_bytes / GIB,
            "measured_gib": measured / GIB,
            "memory_ratio": planned_bytes / measured,
        }


def _teachers(base: Base, config: ExperimentConfig, adapters: int) -> Step:
    suite = load_suite(config.zoo.suite)
    framing, tasks = Framing.of(base, suite, config.zoo), list(suite)
    lessons = [make_lesson(framing, task, seed=0) for task in tasks[:adapters]]
    functional = FunctionalLoRA(base.model, target_shapes(base.model, config.lora.target_modules))
    group = TeacherGroup(functional, lessons, config.lora, config.zoo, framing.pad)
    size = sum(tensor.nbytes for tensor in group.factors.tensors())

    def on_paper(paper: FunctionalLoRA, rows: Rows) -> Work:
        trained = Teachers(paper, config, rows.adapters)
        return count(lambda: trained.micro_batch(rows)) * share_of_layers(paper, rows) + count(trained.update)

    def planned(paper: FunctionalLoRA, rows: Rows) -> float:
        return weights_bytes(paper) + TEACHER_COPIES * size + rows_bytes(paper, rows, backward=True)

    return Step("teachers", lambda: group.step(1), on_paper, weights_bytes(functional) + 3 * size, planned)


def _generator(base: Base, config: ExperimentConfig, batch: TokenBatch) -> Step:
    adapters = len(batch) // EACH
    step = prepare_step(base, config, batch, adapters)
    lora = config.lora
    spec = GeneratorSpec(step.targets.functional.shapes, lora.rank, lora.alpha, EMBEDDING_DIM, config.generator.size)
    network = LoRAGenerator(spec).to(base.model.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    embeddings = torch.randn(adapters, VECTORS, EMBEDDING_DIM, device=base.model.device)
    mask = torch.ones(adapters, VECTORS, dtype=torch.bool, device=base.model.device)
    trained = sum(parameter.nbytes for parameter in network.parameters())
    written = sum(tensor.nbytes for tensor in step.generated.tensors())

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        found = compare({"generated": network(embeddings, mask)}, step.plan, step.train, step.targets, None, "mse")
        objective_loss(found, WEIGHTS)[0].backward()
        optimizer.step()

    def on_paper(paper: FunctionalLoRA, rows: Rows) -> Work:
        generator = Generator(paper, config, levels=())
        return count(lambda: generator.micro_batch(rows)) * share_of_layers(paper, rows) + count(generator.update)

    def planned(paper: FunctionalLoRA, rows: Rows) -> float:
        state = (1 + OPTIMIZER_COPIES) * trained + ADAPTER_COPIES * written
        return weights_bytes(paper) + state + rows_bytes(paper, rows, backward=True)

    return Step("generator", run, on_paper, weights_bytes(step.targets.functional) + 3 * trained, planned)


def _scoring(base: Base, config: ExperimentConfig, batch: TokenBatch) -> Step:
    step = prepare_step(base, config, batch, len(batch) // EACH)
    functional, size = step.targets.functional, sum(tensor.nbytes for tensor in step.generated.tensors())
    factors = step.generated.detach()

    def planned(paper: FunctionalLoRA, rows: Rows) -> float:
        return weights_bytes(paper) + SCORED_COPIES * size + rows_bytes(paper, rows)

    return Step(
        "evaluation",
        lambda: score(functional, factors, batch),
        lambda paper, rows: count(lambda: forward(paper, rows, config.lora.rank)) * share_of_layers(paper, rows),
        weights_bytes(functional) + size,
        planned,
    )
