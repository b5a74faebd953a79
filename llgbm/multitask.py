"""One LoRA for all tasks, which reads what is wanted before every input, or does not: a rival, and a guide where no teacher is."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from llgbm.config import LoRAConfig, ZooConfig
from llgbm.dataset import concatenate
from llgbm.files import hash_json
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import CONFIG_FILE, read_adapter, write_adapter
from llgbm.tracking.lock import BusyError, hold
from llgbm.tracking.states import Checkpoint, StateFolder
from llgbm.workspace import Workspace
from llgbm.zoo.base import content_of
from llgbm.zoo.folder import Teacher
from llgbm.zoo.named import loadable_name
from llgbm.zoo.suite import Example, Task
from llgbm.zoo.trainer import Lesson, train_adapters

BATCH_SIZE = 32
"""Examples of a step."""
VALIDATION = 2
"""Train examples per task that tell when the adapter is done."""
CHECKS = 10
"""How often the validation of an instructed adapter, whose sequences are long, is scored at most."""


def told(sentence: str, example: Example) -> Example:
    """The example with what is asked for before its input."""
    return replace(example, input=f"{sentence}\n\n{example.input}")


def kept_under(cache_dir: Path, there: Workspace, teachers: Sequence[Teacher], instructed: bool, batch_size: int = BATCH_SIZE) -> Path:
    """The folder of a cache for the adapter that `multitask_adapter` makes: its name has a hash of what it is made from."""
    manifest, read = there.zoo.manifest, there.roomy_framing.max_length
    content = [[t.hash for t in teachers], there.zoo.suite_entry.hash, manifest["lora"], manifest["zoo"], batch_size, read]
    return cache_dir / f"{_name(instructed)}-{hash_json([content_of(there.base.identity), *content])[:16]}"


def is_kept(folder: Path) -> bool:
    """Whether a whole adapter is there."""
    return (folder / CONFIG_FILE).is_file()


def kept_adapter(there: Workspace, folder: Path) -> LoRAFactors:
    """The adapter that was kept in a folder, where the base is."""
    return read_adapter(folder, there.functional.shapes).to(device=there.functional.device)


def multitask_adapter(
    there: Workspace, teachers: Sequence[Teacher], instructed: bool, batch_size: int = BATCH_SIZE, folder: Path | None = None
) -> LoRAFactors:
    """One adapter for the tasks of all these teachers, as it was kept in a folder or trained now; see `train_multitask`."""
    if folder and is_kept(folder):
        return kept_adapter(there, folder)
    return train_multitask(there, teachers, instructed, batch_size, folder)


def train_multitask(
    there: Workspace,
    teachers: Sequence[Teacher],
    instructed: bool,
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    agree: Callable[[Callable[[], dict[str, Tensor]]], dict[str, Tensor]] = lambda read: read(),
) -> LoRAFactors:
    """One adapter for the tasks of all these teachers, where the base is; from the last check on of a training that was interrupted.

    Args:
        there: Zoo and base.
        teachers: Of seen tasks, one each. Steps and learning rate are theirs; an instructed adapter sees as many examples as they together.
        instructed: Whether it is told what is wanted.
        batch_size: Examples of a step.
        folder: Keeps the adapter, and a folder beside it what is learned until then.
        on_step: As of `train_adapters`.
        agree: Gives every process that trains this adapter what one of them reads of a training that was interrupted.
    """
    manifest = there.zoo.manifest
    own = ZooConfig(**manifest["zoo"])
    zoo = replace(own, batch_size=batch_size)
    if instructed:
        zoo = _as_long_as_all(zoo, teachers, own.batch_size)
    lesson = multitask_lesson(there, teachers, instructed)
    lora, pad = LoRAConfig(**manifest["lora"]), there.framing.pad
    with _begun(folder) as begun:
        keep = begun.keep if begun.states else None
        trained = train_adapters(there.functional, [lesson], lora, zoo, pad, on_step, agree(begun.read), keep)
        if folder:
            fan_in_fan_out = there.functional.fan_in_fan_out
            write_adapter(folder, trained.factors, base_name=loadable_name(there.base.name), fan_in_fan_out=fan_in_fan_out)
    return trained.factors


class _Begun:
    """What a training has learned so far, its last check alone; nothing where there is no folder for it."""

    def __init__(self, states: StateFolder | None) -> None:
        self.states = states

    def read(self) -> dict[str, Tensor]:
        newest = self.states.newest() if self.states else None
        return dict(newest.tensors) if newest else {}

    def keep(self, step: int, state: dict[str, Tensor]) -> None:
        assert self.states is not None
        self.states.write(Checkpoint(step, state))
        self.states.keep({step})


@contextmanager
def _begun(folder: Path | None) -> Iterator[_Begun]:
    """Keeps what is learned until the adapter lies in its folder; nothing of one that has no folder, or that another process trains."""
    if folder is None:
        yield _Begun(None)
        return
    with ExitStack() as stack:
        states = StateFolder(folder.with_name(f"{folder.name}-begun"), folder.name)
        try:
            stack.enter_context(hold(folder.parent, f".{folder.name}.lock"))
        except BusyError:
            yield _Begun(None)
            return
        yield _Begun(states)
        shutil.rmtree(states.folder, ignore_errors=True)


def multitask_lesson(there: Workspace, teachers: Sequence[Teacher], instructed: bool) -> Lesson:
    """All train examples of the teachers' tasks; `instructed`: each after one of its task's seen wordings, in turn."""
    framing, pad = there.roomy_framing, there.framing.pad
    batches = []
    for teacher in teachers:
        task = there.zoo.suite[teacher.task]
        examples = there.framing.of_task(task, "train")
        batches.append(framing.batch(framing.fitting(_each_told(task, examples)) if instructed else examples))
    validation = [batch.rows(slice(0, VALIDATION)) for batch in batches]
    return Lesson(concatenate(batches, pad), concatenate(validation, pad), teachers[0].seed, _name(instructed))


def _name(instructed: bool) -> str:
    return "multitask_instructed" if instructed else "multitask_blind"


def _each_told(task: Task, examples: Sequence[Example]) -> list[Example]:
    wordings = (task.description, *task.paraphrases)
    return [told(wordings[i % len(wordings)], example) for i, example in enumerate(examples)]


def _as_long_as_all(zoo: ZooConfig, teachers: Sequence[Teacher], batch_size: int) -> ZooConfig:
    """As many steps as see the examples that the teachers saw together."""
    steps = max(1, sum(teacher.steps or 0 for teacher in teachers) * batch_size // zoo.batch_size)
    return replace(zoo, steps=steps, check_interval=max(zoo.check_interval, steps // CHECKS))
