"""One LoRA for all tasks, which reads what is wanted before every input, or does not: a rival, and a guide where no teacher is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llgbm.config import LoRAConfig, ZooConfig
from llgbm.dataset import concatenate
from llgbm.files import hash_json
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import CONFIG_FILE, read_adapter, write_adapter
from llgbm.workspace import Workspace
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
    return cache_dir / f"{_name(instructed)}-{hash_json(content)[:16]}"


def is_kept(folder: Path) -> bool:
    """Whether a whole adapter is there."""
    return (folder / CONFIG_FILE).is_file()


def multitask_adapter(
    there: Workspace,
    teachers: Sequence[Teacher],
    instructed: bool,
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> LoRAFactors:
    """One adapter for the tasks of all these teachers, trained now or read from where it was kept; where the base is.

    Args:
        there: Zoo and base.
        teachers: Of seen tasks, one each. Steps and learning rate are theirs; an instructed adapter sees as many examples as they together.
        instructed: Whether it is told what is wanted.
        batch_size: Examples of a step.
        folder: Keeps the adapter.
        on_step: As of `train_adapters`.
    """
    if folder and is_kept(folder):
        return read_adapter(folder, there.functional.shapes).to(device=there.functional.device)
    manifest = there.zoo.manifest
    own = ZooConfig(**manifest["zoo"])
    zoo = replace(own, batch_size=batch_size)
    if instructed:
        zoo = _as_long_as_all(zoo, teachers, own.batch_size)
    lesson = multitask_lesson(there, teachers, instructed)
    trained = train_adapters(there.functional, [lesson], LoRAConfig(**manifest["lora"]), zoo, there.framing.pad, on_step)
    if folder:
        fan_in_fan_out = there.functional.fan_in_fan_out
        write_adapter(folder, trained.factors, base_name=loadable_name(there.base.name), fan_in_fan_out=fan_in_fan_out)
    return trained.factors


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
