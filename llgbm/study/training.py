"""One training of one model on one task, full or LoRA: transformers' Trainer, float32 optimizer state, hooks for what goes on meanwhile."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llgbm.study.backbone import with_lora
from llgbm.study.config import FullConfig, LoRAMethodConfig, Method, TrainingConfig
from llgbm.study.optimizer import MasterAdamW
from llgbm.study.task import Batch, Scored, StudyTask

Settings = FullConfig | LoRAMethodConfig
"""Hyperparameters of a method."""
LOGS = 50
"""Lines of metrics in a training, about."""


@dataclass(frozen=True)
class Fitted:
    """A trained model."""

    model: nn.Module
    steps: int
    seconds: float
    """Of the training loop, without the hooks."""


def numbers(settings: Settings) -> dict[str, float]:
    """The hyperparameters that are numbers, by name."""
    return {name: value for name, value in asdict(settings).items() if not isinstance(value, list)}


def n_steps(examples: int, epochs: float, settings: Settings) -> int:
    """Optimizer steps of so many passes."""
    return max(1, math.ceil(epochs * examples / (settings.batch_size * settings.accumulation)))


def build_model(task: StudyTask, method: Method, settings: Settings, seed: int) -> nn.Module:
    """A fresh model; the seed draws its head and A. InputError as `backbone.with_lora`."""
    model = task.model(seed)
    if method == "full":
        return model
    assert isinstance(settings, LoRAMethodConfig)
    return with_lora(model, settings, task.head(model), seed)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable ones and all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def fit(
    task: StudyTask,
    model: nn.Module,
    settings: Settings,
    training: TrainingConfig,
    seed: int,
    epochs: float | None = None,
    hooks: Sequence[TrainerCallback] = (),
) -> Fitted:
    """Train a model in place.

    Args:
        task: Its train examples.
        model: From `build_model`.
        settings: Learning rate, batches, warm-up, weight decay.
        training: Passes, clipping.
        seed: Of data order and dropout.
        epochs: Other than `training.epochs`.
        hooks: Called by Trainer as it calls its own.
    """
    rows = task.rows("train")
    steps = n_steps(len(rows), epochs or training.epochs, settings)
    device, watch = next(model.parameters()).device, _Stopwatch(hooks)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            max_steps=steps,
            lr_scheduler_type="linear",
            warmup_steps=round(settings.warmup * steps),
            max_grad_norm=training.max_grad_norm,
            train_sampling_strategy="group_by_length",
            use_cpu=device.type == "cpu",
            seed=seed,
            save_strategy="no",
            logging_steps=max(1, steps // LOGS),
            logging_first_step=True,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            label_names=["labels"],
        )
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1  # else Trainer spreads the batch over every GPU there is
        trainer = Trainer(
            model,
            arguments,
            train_dataset=_Rows(rows),
            data_collator=task.collate,
            compute_loss_func=task.loss,
            callbacks=[watch],
            optimizers=(MasterAdamW(model, settings.learning_rate, settings.weight_decay), None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
    return Fitted(model, trainer.state.global_step, watch.seconds)


class _Rows(torch.utils.data.Dataset):
    """Rows as Trainer takes them."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class _Stopwatch(TrainerCallback):
    """Calls other hooks, and takes the time between them."""

    def __init__(self, hooks: Sequence[TrainerCallback]) -> None:
        self.hooks, self.seconds, self._since = hooks, 0.0, time.perf_counter()

    def _call(self, event: str, *given: Any, **kwargs: Any) -> None:
        self.seconds += time.perf_counter() - self._since
        for hook in self.hooks:
            getattr(hook, event)(*given, **kwargs)
        self._since = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._call("on_train_begin", args, state, control, **kwargs)
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._call("on_step_end", args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._call("on_log", args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._call("on_train_end", args, state, control, **kwargs)


class Validator(TrainerCallback):
    """Scores the model on the validation examples at evenly spaced steps, the last of them included.

    Args:
        task: Whose validation examples.
        evaluations: How often.
        report: Called with the step, how many validations there were, and the scores; true ends the training.
    """

    def __init__(self, task: StudyTask, evaluations: int, report: Callable[[int, int, Scored], bool | None]) -> None:
        self.task, self.evaluations, self.report, self.done = task, evaluations, report, 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step * self.evaluations >= state.max_steps * (self.done + 1):
            self.done = state.global_step * self.evaluations // state.max_steps
            if self.report(state.global_step, self.done, self.task.score(kwargs["model"], "validation")):
                control.should_training_stop = True


class Ticker(TrainerCallback):
    """Tells after every step which share of the training is done."""

    def __init__(self, tick: Callable[[float], None]) -> None:
        self.tick = tick

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.tick(state.global_step / state.max_steps)


class LogWriter(TrainerCallback):
    """Hands Trainer's logs on: step -> loss, gradient norm, learning rate."""

    def __init__(self, write: Callable[[int, dict[str, Any]], None]) -> None:
        self.write = write

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            self.write(state.global_step, {name: logs[name] for name in ("loss", "grad_norm", "learning_rate") if name in logs})


@torch.no_grad()
def starting_loss(task: StudyTask, model: nn.Module, examples: int) -> float:
    """The mean training loss of a model as it is on the first train examples, as Trainer computes it."""
    model.eval()
    rows = task.rows("train")[:examples]
    total = 0.0
    for row in rows:
        batch: Batch = {key: value.to(next(model.parameters()).device) for key, value in task.collate([row]).items()}
        if task.loss is None:
            total += float(model(**batch).loss)
        else:
            labels = batch.pop("labels")
            total += float(task.loss(model(**batch), labels))
    return total / len(rows)
