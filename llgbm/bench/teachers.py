"""`llgbm bench teachers`: K teachers trained at once against the same teachers one after another with PEFT.

Both sides start from the same A, see the same examples in the same order, and take the same number of steps with the
same optimizer and learning rates. They differ only in how the work is laid out.
"""

import copy
import dataclasses
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F

from llgbm.bench.clock import now
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch, at_tokens
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.progress import ProgressCallback
from llgbm.scoring import score_each
from llgbm.zoo.base import Base, load_configured
from llgbm.zoo.build import plan_batches
from llgbm.zoo.suite import Task
from llgbm.zoo.suites import load_suite
from llgbm.zoo.trainer import Lesson, data_order, initial_factors, learning_rate_at, make_lesson, train_adapters

NEVER_SOLVED = 2.0
"""An exact match no adapter reaches: both sides take every step."""


def bench_teachers(config: ExperimentConfig, n_teachers: int = 40, steps: int = 120, progress: ProgressCallback | None = None) -> dict:
    """Train the first batch of seen tasks, as `zoo build` plans it, both ways: seconds, their ratio, test exact match."""
    base = load_configured(config.model)
    suite = load_suite(config.zoo.suite)
    framing = Framing.of(base, suite, config.zoo)
    zoo = dataclasses.replace(config.zoo, steps=steps, solved_exact_match=NEVER_SOLVED, check_interval=steps, adapters_per_batch=n_teachers)
    tasks = [task for task, _ in next(plan_batches(suite.select(split="seen"), zoo))]
    config = dataclasses.replace(config, zoo=zoo)
    lessons = [make_lesson(framing, task, seed=0) for task in tasks]
    lessons = [dataclasses.replace(lesson, validation=lesson.train.rows([0])) for lesson in lessons]
    functional = FunctionalLoRA(base.model, target_shapes(base.model, config.lora.target_modules))

    start = now()
    together = train_adapters(functional, lessons, config.lora, zoo, framing.pad).factors
    together_s = now() - start

    start = now()
    singles = []
    for k, lesson in enumerate(lessons):
        singles.append(_train_with_peft(base, functional, lesson, config))
        if progress:
            progress(k + 1, len(lessons))
    one_by_one_s = now() - start
    return {
        "n_teachers": len(tasks),
        "steps": steps,
        "together_s": together_s,
        "one_by_one_s": one_by_one_s,
        "speedup": one_by_one_s / together_s,
        "together_exact_match": _exact_match(functional, together, framing, tasks),
        "one_by_one_exact_match": _exact_match(functional, LoRAFactors.stack(singles), framing, tasks),
    }


def _train_with_peft(base: Base, functional: FunctionalLoRA, lesson: Lesson, config: ExperimentConfig) -> LoRAFactors:
    """One teacher the usual way: a PEFT model and torch's AdamW."""
    lora, zoo = config.lora, config.zoo
    start = initial_factors(functional, [lesson], lora, zoo)
    model = get_peft_model(
        copy.deepcopy(base.model),
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # divided by the rank, whole or not
            target_modules=list(functional.shapes),
            fan_in_fan_out=functional.fan_in_fan_out,
        ),
    )
    assert isinstance(model, PeftModel)
    inner: Any = model.base_model
    layers: dict[str, Any] = {name: inner.model.get_submodule(name) for name in functional.shapes}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A["default"].weight.copy_(start.a[name][0])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=zoo.learning_rate, weight_decay=0.0, fused=True)
    order = data_order(lesson)
    for step in range(1, zoo.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, zoo)
        optimizer.zero_grad(set_to_none=True)
        _loss(model, lesson.train.rows(torch.randint(len(lesson.train), (zoo.batch_size,), generator=order))).backward()
        if zoo.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, zoo.max_grad_norm)
        optimizer.step()
    factors = initial_factors(functional, [lesson], lora, zoo)
    for name, layer in layers.items():
        factors.a[name] = layer.lora_A["default"].weight.detach()[None]
        factors.b[name] = layer.lora_B["default"].weight.detach()[None]
    return factors


def _loss(model: PeftModel, batch: TokenBatch) -> torch.Tensor:
    batch = batch.to(model.device)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return F.cross_entropy(at_tokens(logits, batch.predicts), batch.targets)


def _exact_match(functional: FunctionalLoRA, factors: LoRAFactors, framing: Framing, tasks: list[Task]) -> float:
    batches = [framing.batch(task.test) for task in tasks]
    scores = score_each(functional, factors, batches, framing.pad)
    return sum(score.exact_match for score in scores) / len(scores)
