"""`llgbm bench step`: one objective step through K adapters, against the bare base and two other ways of the same step.

The step is product + kl as training takes it: forward through K generated adapters, their loss against cached teacher targets,
backward to the factors. The floor is forward and backward of the base alone on the same tokens. The rivals write the same step
with factors repeated for every token (Text-to-LoRA's hooks) and as a Python loop of `torch.func.functional_call` with W + BA.
All go without a mask, as rows padded on the right may.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llgbm.bench.clock import now
from llgbm.bench.deltas import random_qwen2
from llgbm.bench.syncs import host_syncs
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch, at_tokens
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.losses import Evidence, mean_per_adapter, objective_loss, product_loss, token_kl
from llgbm.memory import peak_bytes
from llgbm.training.plan import StepPlan
from llgbm.training.setup import TeacherSet
from llgbm.training.step import compare
from llgbm.training.targets import TargetOptions, TeacherTargets, owners
from llgbm.zoo.base import Base, load_base, load_configured
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite

WEIGHTS = {"product": 1.0, "kl": 1.0}
FACTOR_STD = 0.05
TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (3e-2, 3e-1)}
"""By the base's type, how far two ways may differ: relative to the loss, and to the largest gradient."""


def bench_step(config: ExperimentConfig, repeats: int = 7) -> dict:
    """The configured base and step, and the same number of examples with an adapter for each; a row for each."""
    adapters, examples = config.training.tasks_per_step, config.training.examples_per_task
    shapes = dict.fromkeys([(adapters, examples), (adapters * examples, 1)])
    return _measure(load_configured(config.model), load_suite(config.zoo.suite), config, list(shapes), repeats)


def bench_step_100m(config: ExperimentConfig, repeats: int = 3) -> dict:
    """A random Qwen2 of about 100M parameters, where the base's own work dominates."""
    tokenizer = load_base("micro").tokenizer
    base = Base(random_qwen2(len(tokenizer), config.model.device), tokenizer, "qwen2-100m")
    return _measure(base, load_suite(config.zoo.suite), config, ((8, 4),), repeats)


@dataclass
class Step:
    """One step's fixed inputs; generated factors are leaves."""

    base: Base
    generated: LoRAFactors
    plan: StepPlan
    train: TeacherSet
    targets: TeacherTargets

    @property
    def n_adapters(self) -> int:
        return self.generated.n_adapters

    @property
    def per_adapter(self) -> int:
        return self.train.per_teacher

    @cached_property
    def batch(self) -> TokenBatch:
        """The examples where the base is."""
        return self.train.examples.to(self.base.model.device)


def encode_step(base: Base, suite: TaskSuite, n_adapters: int, per_adapter: int) -> TokenBatch:
    """Real examples, adapter-major."""
    tasks = list(suite)
    examples = [example for k in range(n_adapters) for example in tasks[k % len(tasks)].train[:per_adapter]]
    return Framing.of(base, suite).batch(examples)


def prepare_step(base: Base, config: ExperimentConfig, batch: TokenBatch, n_adapters: int) -> Step:
    """Random teachers with their cached outputs, and random factors in the layout in which a generator writes them."""
    shapes = target_shapes(base.model, config.lora.target_modules)
    rng = torch.Generator().manual_seed(0)
    teachers, generated = (
        LoRAFactors.initialize(shapes, config.lora.rank, config.lora.alpha, n_adapters, rng).map(
            lambda tensor: (torch.randn(tensor.shape, generator=rng) * FACTOR_STD).to(base.model.device)
        )
        for _ in range(2)
    )
    generated.b = {name: b.mT.contiguous().mT for name, b in generated.b.items()}
    for factor in generated.tensors():
        factor.requires_grad_()
    per_adapter = len(batch) // n_adapters
    targets = TeacherTargets(FunctionalLoRA(base.model, shapes), teachers, batch, TargetOptions(frozenset(WEIGHTS), ()))
    plan = StepPlan(tuple(range(n_adapters)), (tuple(range(per_adapter)),) * n_adapters, (), ())
    return Step(base, generated, plan, TeacherSet([], [], teachers, batch, per_adapter, []), targets)


def ours(step: Step) -> Tensor:
    """As training does it."""
    comparison = compare({"generated": step.generated}, step.plan, step.train, step.targets, None, "mse")
    loss, _ = objective_loss(comparison, WEIGHTS)
    loss.backward()
    return loss.detach()


def floor(step: Step) -> Tensor:
    """The bare base, forward and backward through every layer, to the embeddings of the same tokens."""
    model = step.base.model
    embedded = model.get_input_embeddings()(step.batch.input_ids).detach().requires_grad_()
    hidden = model.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    loss = _kl(step, _logits(step, hidden))
    loss.backward()
    return loss.detach()


def repeat_per_token(step: Step) -> Tensor:
    """Hooks on the base's layers, with each adapter's A and B repeated for every token of its rows."""
    model, tokens = step.base.model, step.per_adapter * step.batch.input_ids.shape[1]
    hooks = []
    for name in step.generated.module_names:
        of_adapters = (step.generated.a, step.generated.b, step.generated.scaling)
        a, b, scaling = (part[name].to(model.dtype).repeat_interleave(tokens, 0) for part in of_adapters)

        def add(module: torch.nn.Module, args: tuple, output: Tensor, a: Tensor = a, b: Tensor = b, s: Tensor = scaling) -> Tensor:
            low = torch.bmm(a, args[0].flatten(0, 1)[..., None])
            return output + (torch.bmm(b, low)[..., 0] * s[:, None]).view_as(output)

        hooks.append(model.get_submodule(name).register_forward_hook(add))
    try:
        hidden = model.base_model(input_ids=step.batch.input_ids, use_cache=False).last_hidden_state
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
            weight = weights[f"{name}.weight"]
            changed[f"{name}.weight"] = weight + (scaling * b @ a).to(weight.dtype)
        rows = slice(start, start + step.per_adapter)
        start += step.per_adapter
        output = torch.func.functional_call(model, changed, (), {"input_ids": step.batch.input_ids[rows], "use_cache": False})
        kept.append(at_tokens(output.logits, step.batch.predicts[rows]))
    loss = _kl(step, torch.cat(kept)) + _product(step)
    loss.backward()
    return loss.detach()


IMPLEMENTATIONS: dict[str, Callable[[Step], Tensor]] = {
    "ours": ours,
    "floor": floor,
    "repeat_per_token": repeat_per_token,
    "loop": loop_of_functional_calls,
}
RIVALS = ("repeat_per_token", "loop")


def compare_steps(step: Step, repeats: int) -> dict:
    """Median seconds of every way, measured in turn; ratios; peaks of memory; how far losses and gradients differ from ours.

    `host_syncs_per_step` is how often our step makes the host wait for the device, or would on an accelerator.

    Raises:
        RuntimeError: A rival does other work: its loss or gradient is not ours.
    """
    differences = measure_differences(step)
    seconds: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for _ in range(repeats):
        for name, run in IMPLEMENTATIONS.items():
            start = now()
            run(step)
            seconds[name].append(now() - start)
            _take_gradients(step)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "adapters": step.n_adapters,
        "examples_per_adapter": step.per_adapter,
        "tokens": int(step.batch.attention_mask.sum()),
        **{f"{name}_s": value for name, value in median.items()},
        "times_the_floor": median["ours"] / median["floor"],
        **{f"speedup_over_{name}": median[name] / median["ours"] for name in RIVALS},
        "host_syncs_per_step": sum(host_syncs(lambda: ours(step), device=step.generated.tensors()).values()),
        **{f"{name}_peak_mb": _peak(step, run) / 1e6 for name, run in IMPLEMENTATIONS.items()},
        **differences,
    }


def measure_differences(step: Step) -> dict[str, float]:
    """The largest difference of a rival's loss from ours, relative to ours, and of its gradient, relative to our largest."""
    found = {name: (float(IMPLEMENTATIONS[name](step)), _take_gradients(step)) for name in ("ours", *RIVALS)}
    loss, gradients = found["ours"]
    largest = max(float(g.abs().max()) for g in gradients)
    loss_tolerance, gradient_tolerance = TOLERANCES[step.base.model.dtype]
    differences = {"loss_difference": 0.0, "gradient_difference": 0.0}
    for name in RIVALS:
        by_loss = abs(found[name][0] - loss) / abs(loss)
        by_gradient = max(float((g - own).abs().max()) for g, own in zip(found[name][1], gradients, strict=True)) / largest
        if not (by_loss < loss_tolerance and by_gradient < gradient_tolerance):
            raise RuntimeError(f"{name} takes another step than ours: its loss differs by {by_loss:.1e}, its gradient by {by_gradient:.1e}")
        differences = {
            "loss_difference": max(differences["loss_difference"], by_loss),
            "gradient_difference": max(differences["gradient_difference"], by_gradient),
        }
    return differences


def _peak(step: Step, run: Callable[[Step], Tensor]) -> int:
    used = peak_bytes(lambda: run(step))
    _take_gradients(step)
    return used


def memory_growth(base: Base, config: ExperimentConfig, batch: TokenBatch) -> dict[str, float]:
    """What one more adapter adds to our step's peak, from one for all sequences to one for each, and the size of an adapter."""
    few, many = (prepare_step(base, config, batch, count) for count in (1, len(batch)))
    added = (_peak(many, ours) - _peak(few, ours)) / (many.n_adapters - few.n_adapters)
    size = sum(t.nbytes for t in few.generated.tensors()) / few.n_adapters
    return {"adapter_bytes": size, "peak_bytes_per_adapter": added, "peak_in_adapters": added / size}


def _measure(base: Base, suite: TaskSuite, config: ExperimentConfig, shapes: Sequence[tuple[int, int]], repeats: int) -> dict:
    batches = [encode_step(base, suite, *shape) for shape in shapes]
    growth = memory_growth(base, config, batches[0])
    found = [compare_steps(prepare_step(base, config, batch, k), repeats) for batch, (k, _) in zip(batches, shapes, strict=True)]
    parameters = sum(p.numel() for p in base.model.parameters())
    rows = [row for figures in found for row in _table(figures)]
    return {**found[0], "parameters": parameters, "threads": torch.get_num_threads(), **growth, "shapes": found, "rows": rows}


def _table(figures: dict) -> list[dict]:
    """One row for each way, to be read."""
    return [
        {
            "adapters": figures["adapters"],
            "examples_each": figures["examples_per_adapter"],
            "way": way.replace("_", " "),
            "seconds": figures[f"{way}_s"],
            "times_the_floor": figures[f"{way}_s"] / figures["floor_s"],
            "times_ours": figures[f"{way}_s"] / figures["ours_s"],
            "peak_mb": figures[f"{way}_peak_mb"],
        }
        for way in IMPLEMENTATIONS
    ]


def _logits(step: Step, hidden: Tensor) -> Tensor:
    head = step.base.model.get_output_embeddings()
    assert head is not None
    return head(at_tokens(hidden, step.batch.predicts))


def _kl(step: Step, logits: Tensor) -> Tensor:
    theirs = step.targets.outputs(range(step.n_adapters), torch.arange(len(step.batch.input_ids)), step.batch).predictions
    assert theirs is not None
    per_adapter = mean_per_adapter(token_kl(theirs, logits), owners(step.batch, step.per_adapter), step.n_adapters)
    return per_adapter.mean() / step.targets.scale["kl"]


def _product(step: Step) -> Tensor:
    teachers = step.targets.teachers.select(range(step.n_adapters))
    return product_loss(Evidence(step.generated, teachers, scale=step.targets.scale))


def _take_gradients(step: Step) -> list[Tensor]:
    """The factors' gradients, and none left behind."""
    found = []
    for factor in step.generated.tensors():
        found.append(torch.zeros_like(factor) if factor.grad is None else factor.grad)
        factor.grad = None
    return found
