"""`llgbm bench step`: one objective step through K adapters, against the bare base and two other ways of the same step.

The step is product + kl: forward through K generated adapters, their loss against cached teacher targets, backward to the
factors. The floor is forward and backward of the base alone on the same tokens. The rivals write the same step with factors
repeated for every token (Text-to-LoRA's hooks) and as a Python loop of `torch.func.functional_call` with W + BA.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from llgbm.bench.deltas import random_qwen2
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch, encode_examples
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.losses import Comparison, mean_per_adapter, objective_loss, product_loss, token_kl
from llgbm.training.targets import TargetOptions, TeacherTargets, owners
from llgbm.zoo.base import Base, load_base
from llgbm.zoo.suite import TaskSuite, load_suite

WEIGHTS = {"product": 1.0, "kl": 1.0}
FACTOR_STD = 0.05
SHAPES_OF_STEPS = ((16, 4), (64, 1))
"""Adapters and examples of each, per step."""


def bench_step(config: ExperimentConfig, repeats: int = 7) -> dict:
    """The configured base; a row for each shape of a step."""
    return _rows(load_base(config.model.name), load_suite(config.zoo.suite), config, SHAPES_OF_STEPS, repeats)


def bench_step_100m(config: ExperimentConfig, repeats: int = 3) -> dict:
    """A random Qwen2 of about 100M parameters, where the base's own work dominates."""
    tokenizer = load_base("micro").tokenizer
    base = Base(random_qwen2(len(tokenizer)), tokenizer, "qwen2-100m")
    return _rows(base, load_suite(config.zoo.suite), config, ((8, 4),), repeats)


@dataclass
class Step:
    """One step's fixed inputs; generated factors are leaves."""

    base: Base
    functional: FunctionalLoRA
    generated: LoRAFactors
    targets: TeacherTargets
    batch: TokenBatch
    per_adapter: int

    @property
    def n_adapters(self) -> int:
        return self.generated.n_adapters


def prepare_step(base: Base, suite: TaskSuite, config: ExperimentConfig, n_adapters: int, per_adapter: int) -> Step:
    """Random teachers and generated factors on real examples."""
    shapes = target_shapes(base.model, config.lora.target_modules)
    functional = FunctionalLoRA(base.model, shapes)
    rng = torch.Generator().manual_seed(0)
    teachers, generated = (
        LoRAFactors.initialize(shapes, config.lora.rank, config.lora.alpha, n_adapters, rng).map(
            lambda tensor: torch.randn(tensor.shape, generator=rng) * FACTOR_STD
        )
        for _ in range(2)
    )
    for factor in (*generated.a.values(), *generated.b.values()):
        factor.requires_grad_()
    tasks = list(suite)
    examples = [example for k in range(n_adapters) for example in tasks[k % len(tasks)].train[:per_adapter]]
    batch = encode_examples(base.tokenizer, suite.frame, examples)
    targets = TeacherTargets(functional, teachers, batch, TargetOptions(frozenset(WEIGHTS), ()))
    return Step(base, functional, generated, targets, batch, per_adapter)


def ours(step: Step) -> Tensor:
    """As training does it."""
    out = step.functional(step.generated, step.batch.input_ids, step.batch.attention_mask, logits_at=step.batch.predicts)
    rows = torch.arange(len(step.batch.input_ids))
    theirs = step.targets.outputs(range(step.n_adapters), rows, step.batch)
    comparison = Comparison(step.generated, step.targets.teachers, scale=step.targets.scale)
    comparison.owner, comparison.logits, comparison.predictions = owners(step.batch, step.per_adapter), out.logits, theirs.predictions
    loss, _ = objective_loss(comparison, WEIGHTS)
    loss.backward()
    return loss.detach()


def floor(step: Step) -> Tensor:
    """The bare base, forward and backward through every layer, to the embeddings of the same tokens."""
    model = step.base.model
    embedded = model.get_input_embeddings()(step.batch.input_ids).detach().requires_grad_()
    hidden = model.base_model(inputs_embeds=embedded, attention_mask=step.batch.attention_mask).last_hidden_state
    loss = _kl(step, _logits(step, hidden))
    loss.backward()
    return loss.detach()


def repeat_per_token(step: Step) -> Tensor:
    """Hooks on the base's layers, with each adapter's A and B repeated for every token of its rows."""
    model, tokens = step.base.model, step.per_adapter * step.batch.input_ids.shape[1]
    hooks = []
    for name in step.generated.module_names:
        a, b = (factors[name].repeat_interleave(tokens, 0) for factors in (step.generated.a, step.generated.b))
        scaling = step.generated.scaling[name].repeat_interleave(tokens)

        def add(module: torch.nn.Module, args: tuple, output: Tensor, a: Tensor = a, b: Tensor = b, s: Tensor = scaling) -> Tensor:
            low = torch.bmm(a, args[0].flatten(0, 1)[..., None])
            return output + (torch.bmm(b, low)[..., 0] * s[:, None]).view_as(output)

        hooks.append(model.get_submodule(name).register_forward_hook(add))
    try:
        hidden = model.base_model(input_ids=step.batch.input_ids, attention_mask=step.batch.attention_mask).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    loss = _kl(step, _logits(step, hidden)) + _product(step)
    loss.backward()
    return loss.detach()


def loop_of_functional_calls(step: Step) -> Tensor:
    """One `functional_call` per adapter, with the weights W + BA."""
    model = step.base.model
    weights = dict(model.named_parameters())
    kept, start = [], 0
    for k in range(step.n_adapters):
        changed = {}
        for name in step.generated.module_names:
            a, b, scaling = (part[name][k] for part in (step.generated.a, step.generated.b, step.generated.scaling))
            changed[f"{name}.weight"] = weights[f"{name}.weight"] + scaling * b @ a
        rows = slice(start, start + step.per_adapter)
        start += step.per_adapter
        inputs = {"input_ids": step.batch.input_ids[rows], "attention_mask": step.batch.attention_mask[rows]}
        output = torch.func.functional_call(model, changed, (), {**inputs, "use_cache": False})
        kept.append(output.logits[step.batch.predicts[rows]])
    loss = _kl(step, torch.cat(kept)) + _product(step)
    loss.backward()
    return loss.detach()


WAYS: dict[str, Callable[[Step], Tensor]] = {
    "ours": ours,
    "floor": floor,
    "repeat_per_token": repeat_per_token,
    "loop": loop_of_functional_calls,
}


def compare_steps(step: Step, repeats: int) -> dict:
    """Median seconds of every way, measured in turn; ratios; how far losses and gradients differ from ours."""
    losses, gradients = {}, {}
    for name, run in WAYS.items():
        losses[name], gradients[name] = run(step), _take_gradients(step)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, run in WAYS.items():
            start = time.perf_counter()
            run(step)
            seconds[name].append(time.perf_counter() - start)
            _take_gradients(step)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    largest = max(float(g.abs().max()) for g in gradients["ours"])
    rivals = ("repeat_per_token", "loop")
    return {
        "adapters": step.n_adapters,
        "examples_per_adapter": step.per_adapter,
        "tokens": int(step.batch.attention_mask.sum()),
        **{f"{name}_s": value for name, value in median.items()},
        "times_the_floor": median["ours"] / median["floor"],
        **{f"speedup_over_{name}": median[name] / median["ours"] for name in rivals},
        "loss_difference": max(float((losses[name] - losses["ours"]).abs()) for name in rivals),
        "gradient_difference": max(
            float((g - o).abs().max()) / largest for name in rivals for g, o in zip(gradients[name], gradients["ours"], strict=True)
        ),
    }


def memory_per_adapter(base: Base, suite: TaskSuite, config: ExperimentConfig, counts: Sequence[int] = (8, 32)) -> float:
    """Resident bytes one more adapter (with one example) adds to a step, from steps of two sizes; roughly, as the allocator keeps pages."""
    used = []
    for count in counts:
        step = prepare_step(base, suite, config, count, 1)
        before = psutil.Process().memory_info().rss
        ours(step)
        used.append(psutil.Process().memory_info().rss - before)
    return max(0.0, (used[1] - used[0]) / (counts[1] - counts[0]))


def _rows(base: Base, suite: TaskSuite, config: ExperimentConfig, shapes: Sequence[tuple[int, int]], repeats: int) -> dict:
    memory = memory_per_adapter(base, suite, config)
    rows = [compare_steps(prepare_step(base, suite, config, *shape), repeats) for shape in shapes]
    parameters = sum(p.numel() for p in base.model.parameters())
    return {**rows[0], "parameters": parameters, "threads": torch.get_num_threads(), "bytes_per_adapter": memory, "rows": rows}


def _logits(step: Step, hidden: Tensor) -> Tensor:
    head = step.base.model.get_output_embeddings()
    assert head is not None
    return head(hidden[step.batch.predicts])


def _kl(step: Step, logits: Tensor) -> Tensor:
    theirs = step.targets.outputs(range(step.n_adapters), torch.arange(len(step.batch.input_ids)), step.batch).predictions
    assert theirs is not None
    per_adapter = mean_per_adapter(token_kl(theirs, logits), owners(step.batch, step.per_adapter), step.n_adapters)
    return per_adapter.mean() / step.targets.scale["kl"]


def _product(step: Step) -> Tensor:
    return product_loss(Comparison(step.generated, step.targets.teachers, scale=step.targets.scale))


def _take_gradients(step: Step) -> list[Tensor]:
    """The factors' gradients, and none left behind."""
    found = []
    for factor in (*step.generated.a.values(), *step.generated.b.values()):
        found.append(torch.zeros_like(factor) if factor.grad is None else factor.grad)
        factor.grad = None
    return found
