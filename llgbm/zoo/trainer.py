"""Teachers: many LoRA adapters trained at once, one per (task, seed).

K adapters share every forward and backward of the base; their losses, data order and optimizer moments are their own,
so each learns as if it were alone. Shapes: K adapters, b examples each, N = K * b sequences of T tokens.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from llgbm.config import LoRAConfig, ZooConfig
from llgbm.dataset import TokenBatch, concatenate
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, by_token, can_recompute, recompute_layers
from llgbm.functional_lora.measure import row_bytes, rows_at_once
from llgbm.judging import Judge, judge_each
from llgbm.lora.factors import LoRAFactors
from llgbm.optimizer_state import optimizer_tensors, restore_optimizer
from llgbm.transfer import to_device
from llgbm.zoo.suite import Task

TRAINING = "teacher training"
ADAPTER_COPIES = 5
"""Of a teacher in training: the factors, their gradients, two moments, and the result."""
MAX_VALIDATION = 32
"""Train examples per task that are kept from training and decide whether an adapter is solved."""


@dataclass(frozen=True)
class Lesson:
    """What one adapter learns from: its training examples, examples that tell when it is done, and its seed."""

    train: TokenBatch
    validation: TokenBatch
    seed: int
    name: str = ""
    """Names the lesson's data order; the same name and seed draw the same examples."""
    judge: Judge | None = None
    """How its validation examples are judged; None: by exact match, token by token."""


@dataclass
class Trained:
    """K trained adapters, in the order of their lessons."""

    factors: LoRAFactors
    steps: list[int]
    validation: list[float]
    """What each got on its validation examples, by its task's metric."""


def make_lesson(framing: Framing, task: Task, seed: int) -> Lesson:
    """Tokenize a task's train examples and set some aside for validation (all of them if there are fewer than five)."""
    tokens = framing.batch(framing.of_task(task, "train"))
    held_back = min(MAX_VALIDATION, len(tokens) // 5)
    split = len(tokens) - held_back
    validation = tokens.rows(slice(split, None)) if held_back else tokens
    return Lesson(tokens.rows(slice(0, split)), validation, seed, task.name, Judge.of(framing, task))


def data_order(lesson: Lesson) -> torch.Generator:
    """Draws the lesson's examples: the same name and seed, the same order."""
    return _generator("order", lesson.name, lesson.seed)


def initial_factors(functional: FunctionalLoRA, lessons: Sequence[Lesson], lora: LoRAConfig, zoo: ZooConfig) -> LoRAFactors:
    """Where adapters start, B zero: one A per seed and rank, or (`zoo.own_start`) one per lesson; `zoo.ranks` are drawn by lesson."""
    drawn: dict[tuple[object, ...], LoRAFactors] = {}
    starts = [(_rank(lesson, lora, zoo), "init", lesson.seed, *([lesson.name] if zoo.own_start else [])) for lesson in lessons]
    for start in set(starts):
        rank, *parts = start
        drawn[start] = LoRAFactors.initialize(functional.shapes, rank, rank * lora.alpha / lora.rank, generator=_generator(*parts))
    return LoRAFactors.stack([drawn[start] for start in starts]).to(device=functional.device)


def _rank(lesson: Lesson, lora: LoRAConfig, zoo: ZooConfig) -> int:
    if not zoo.ranks:
        return lora.rank
    return zoo.ranks[int(torch.randint(len(zoo.ranks), (), generator=_generator("rank", lesson.name, lesson.seed)))]


def learning_rate_at(step: int, zoo: ZooConfig) -> float:
    """Linear warm-up over the first 5% of steps, then constant or in a line to zero after the last."""
    warmup = max(1, round(0.05 * zoo.steps))
    falling = (zoo.steps + 1 - step) / (zoo.steps + 1 - warmup) if zoo.schedule == "linear" else 1.0
    return zoo.learning_rate * min(1.0, step / warmup, falling)


def train_adapters(
    functional: FunctionalLoRA,
    lessons: Sequence[Lesson],
    lora: LoRAConfig,
    zoo: ZooConfig,
    pad_token_id: int,
    on_step: Callable[[int, int, float], None] | None = None,
    begun: Mapping[str, Tensor] | None = None,
    on_check: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Trained:
    """Train K adapters together; each leaves the batch when its validation examples are solved.

    Args:
        functional: The base, wrapped with slots at the target modules.
        lessons: K lessons. Adapters of one seed start from the same A unless asked otherwise; B starts at zero.
        lora: Rank and alpha.
        zoo: Ranks and starts, steps, batch size, learning rate, when an adapter counts as solved.
        pad_token_id: Fills up shorter sequences.
        on_step: Called with (step, adapters still training, their mean loss when they were checked last; of the first step before that).
        begun: State of a training of the same lessons and settings, which goes on to the same bits; None or empty begins one.
        on_check: Called with (step, state) after a check that leaves adapters training; `begun` takes such a state.
    """
    if lora.dropout:
        raise InputError(f"lora.dropout is {lora.dropout}; teachers train without dropout, set lora.dropout to 0")
    group = TeacherGroup(functional, lessons, lora, zoo, pad_token_id)
    _recompute_if_needed(functional, zoo, group.data.input_ids.shape[1])
    first, shown = 1 + (group.go_on(begun) if begun else 0), 0.0
    for step in range(first, zoo.steps + 1):
        loss, is_checked = group.step(step), step % zoo.check_interval == 0 or step == zoo.steps
        if on_step:
            shown = float(loss) if is_checked or step == first else shown  # read seldom: the device is waited for
            on_step(step, len(group.active), shown)
        if is_checked:
            group.retire(step)
        if not group.active:
            break
        if is_checked and on_check:
            on_check(step, group.state(step))
    return group.result()


class TeacherGroup:
    """The adapters still training: their factors, optimizer moments, and data."""

    def __init__(self, functional: FunctionalLoRA, lessons: Sequence[Lesson], lora: LoRAConfig, zoo: ZooConfig, pad_token_id: int) -> None:
        self.functional, self.lessons, self.zoo = functional, lessons, zoo
        self.pad_token_id = pad_token_id
        self.active = list(range(len(lessons)))
        self.data = concatenate([lesson.train for lesson in lessons], pad_token_id)
        sizes = torch.tensor([len(lesson.train) for lesson in lessons])
        self.sizes, self.offsets = sizes, sizes.cumsum(0) - sizes
        self.orders = [data_order(lesson) for lesson in lessons]
        self.factors = initial_factors(functional, lessons, lora, zoo)
        self.optimizer = self._optimizer()
        self.finished: dict[int, tuple[LoRAFactors, int, float]] = {}
        self.solved_running = dict.fromkeys(self.active, 0)

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [t.requires_grad_() for t in (*self.factors.a.values(), *self.factors.b.values())]
        return torch.optim.AdamW(parameters, lr=self.zoo.learning_rate, weight_decay=0.0, fused=True)

    def step(self, step: int) -> Float[Tensor, ""]:
        """One update of every active adapter on its own next examples; the mean loss, which is still on the device."""
        batch, each = self._draw(), self.zoo.batch_size
        weights = 1 / batch.predicts.sum(1).view(len(self.active), -1).sum(1)
        self.optimizer.zero_grad(set_to_none=True)
        at_once = self._rows_at_once(batch)
        losses = self.functional.memory.run(
            TRAINING, len(self.active), each, at_once, lambda k, rows: self._micro_batch(batch, weights, k, rows)
        )
        if self.zoo.max_grad_norm is not None:
            clip_each(self.factors.tensors(), self.zoo.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.zoo)
        self.optimizer.step()
        return torch.stack(losses).sum() / len(self.active)

    def _rows_at_once(self, batch: TokenBatch) -> int:
        answers = int(batch.predicts.sum(1).max())
        return rows_at_once(self.functional, TRAINING, batch.input_ids.shape[1], len(batch), answers=answers, backward=True)

    def _micro_batch(self, batch: TokenBatch, weights: Tensor, adapters: range, rows: range) -> Float[Tensor, ""]:
        """Add some adapters' gradients on some of their rows; the sum of their losses, each a mean over its adapter's whole batch."""
        first = adapters.start * self.zoo.batch_size + rows.start
        part = batch.rows(slice(first, first + len(adapters) * len(rows))).to(self.functional.device)
        factors = _leaves(self.factors, slice(adapters.start, adapters.stop))
        logits = self.functional(factors, part.input_ids, logits_at=part.predicts, chunked=True).any_logits
        assert logits is not None
        nll = by_token(lambda own, gold: F.cross_entropy(own.float(), gold, reduction="none"), logits, part.targets)
        shares = weights[adapters.start : adapters.stop].repeat_interleave(len(rows)).repeat_interleave(part.predicts.sum(1))
        loss = (nll * to_device(shares, nll.device)).sum()
        gradients = torch.autograd.grad(loss, factors.tensors())
        for parameter, gradient in zip(self.factors.tensors(), gradients, strict=True):
            if parameter.grad is None:  # laid out as the parameter is, which the fused optimizer takes for granted
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad[adapters.start : adapters.stop] += gradient
        return loss.detach()

    def _draw(self) -> TokenBatch:
        rows = [self.offsets[k] + torch.randint(int(self.sizes[k]), (self.zoo.batch_size,), generator=self.orders[k]) for k in self.active]
        return self.data.rows(torch.cat(rows))

    def retire(self, step: int) -> None:
        """Score the active adapters; those that are solved, or out of steps, leave."""
        found = self._validate()
        for k, value in zip(self.active, found, strict=True):
            self.solved_running[k] = self.solved_running[k] + 1 if value >= self.zoo.solved_exact_match else 0
        done = step == self.zoo.steps
        leaving = {i for i, k in enumerate(self.active) if done or self.solved_running[k] >= self.zoo.solved_checks}
        for i in leaving:
            self.finished[self.active[i]] = (self.factors.select([i]).detach(), step, found[i])
        staying = [i for i in range(len(self.active)) if i not in leaving]
        if leaving and staying:
            self._keep(staying)
        self.active = [self.active[i] for i in staying]

    def _validate(self) -> list[float]:
        """What each active adapter gets on its own validation examples, as many as its lesson has."""
        lessons = [self.lessons[k] for k in self.active]
        batches, judges = [lesson.validation for lesson in lessons], [lesson.judge for lesson in lessons]
        return [found.mean_mark for found in judge_each(self.functional, self.factors, batches, judges, self.pad_token_id)]

    def _keep(self, staying: list[int]) -> None:
        """Narrow factors and moments to the adapters that go on."""
        old = self.optimizer
        states = [old.state[p] for p in old.param_groups[0]["params"]]
        self.factors = self.factors.select(staying).detach()
        self.optimizer = self._optimizer()
        for parameter, state in zip(self.optimizer.param_groups[0]["params"], states, strict=True):
            self.optimizer.state[parameter] = {
                "step": state["step"],
                "exp_avg": state["exp_avg"][staying].clone(),
                "exp_avg_sq": state["exp_avg_sq"][staying].clone(),
            }

    def state(self, step: int) -> dict[str, Tensor]:
        """All that decides what comes after a step."""
        state = {
            "step": torch.tensor(step),
            "active": torch.tensor(self.active),
            "solved": torch.tensor(list(self.solved_running.values())),
        }
        state |= _numbered("factors", self.factors.detach().tensors()) | _numbered("order", [order.get_state() for order in self.orders])
        state |= {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        for k, (factors, at, value) in self.finished.items():
            state |= _numbered(f"finished/{k}", [torch.tensor([at, value], dtype=torch.float64), *factors.tensors()])
        return state

    def go_on(self, state: Mapping[str, Tensor]) -> int:
        """Be as a group of the same lessons was when it gave `state`; the step that was its last."""
        start = self.factors.detach()
        self.active, solved = state["active"].tolist(), state["solved"].tolist()
        self.solved_running = dict(enumerate(solved))
        for k, order in enumerate(self.orders):
            order.set_state(state[f"order/{k}"])
        for k in sorted(set(range(len(self.lessons))) - set(self.active)):
            at, value = state[f"finished/{k}/0"].tolist()
            self.finished[k] = (_filled(start.select([k]), state, f"finished/{k}", 1), int(at), value)
        self.factors = _filled(start.select(self.active), state, "factors")
        self.optimizer = self._optimizer()
        of_optimizer = (name for name in state if name.startswith("optimizer/"))
        restore_optimizer(self.optimizer, {name.removeprefix("optimizer/"): state[name] for name in of_optimizer})
        return int(state["step"])

    def result(self) -> Trained:
        """All adapters in the order of the lessons."""
        ordered = [self.finished[k] for k in range(len(self.lessons))]
        return Trained(LoRAFactors.stack([f for f, _, _ in ordered]), [s for _, s, _ in ordered], [e for _, _, e in ordered])


def adapters_at_once(functional: FunctionalLoRA, lora: LoRAConfig, zoo: ZooConfig) -> int:
    """How many adapters can be trained together: with gradients, moments and a copy they take at most half of the memory."""
    size = sum(4 * max(zoo.ranks or [lora.rank]) * (d_in + d_out) for d_in, d_out in functional.shapes.values())
    return functional.memory.at_once("teachers of a batch", 2 * ADAPTER_COPIES * size, zoo.adapters_per_batch)


def _recompute_if_needed(functional: FunctionalLoRA, zoo: ZooConfig, tokens: int) -> None:
    """Recompute activations where it is asked for, or where not even one row fits otherwise and the base can."""
    asked, can = zoo.gradient_checkpointing, can_recompute(functional)
    if asked or (can and row_bytes(functional, tokens, backward=True) > functional.memory.free_bytes()):
        recompute_layers(functional, "zoo.gradient_checkpointing")


def _leaves(factors: LoRAFactors, adapters: slice) -> LoRAFactors:
    """Consecutive adapters as leaves of their own, of the same numbers."""
    part = factors.map(lambda tensor: tensor.detach()[adapters].requires_grad_())
    part.scaling = {name: scaling[adapters] for name, scaling in part.scaling.items()}
    part.ranks = {name: ranks[adapters] for name, ranks in part.ranks.items()}
    return part


def _numbered(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{name}/{i}": tensor for i, tensor in enumerate(tensors)}


def _filled(factors: LoRAFactors, state: Mapping[str, Tensor], name: str, first: int = 0) -> LoRAFactors:
    """The same factors with the numbers that `_numbered` named."""
    for i, tensor in enumerate(factors.tensors(), first):
        tensor.copy_(state[f"{name}/{i}"])
    return factors


def clip_each(parameters: Sequence[Tensor], max_norm: float) -> None:
    """Scale down each adapter's gradient to a norm over all its A and B, as `clip_grad_norm_` does for a single model."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.float().square().flatten(1).sum(1) for g in gradients]).sum(0).sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient *= scale[:, None, None].to(gradient.dtype)


def _generator(*parts: object) -> torch.Generator:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
