"""Rivals that read the request itself at every query: the base told what to do, and one LoRA for all tasks, told it or not."""

from collections.abc import Sequence
from dataclasses import replace

from llgbm.config import LoRAConfig, ZooConfig
from llgbm.dataset import TokenBatch, concatenate
from llgbm.errors import InputError
from llgbm.evaluation.setting import Question, Setting
from llgbm.files import hash_json
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter, write_adapter
from llgbm.zoo.folder import Teacher
from llgbm.zoo.named import loadable_name
from llgbm.zoo.suite import Example
from llgbm.zoo.trainer import Lesson, train_adapters

VALIDATION = 2
"""Train examples per task that tell when the adapter is done."""
CHECKS = 10
"""How often the validation of an instructed adapter, whose sequences are long, is scored at most."""


def instructed_tokens(setting: Setting, question: Question, demonstrated: bool = False) -> TokenBatch:
    """The task's test examples, each after the question's sentence; `demonstrated`: sentence, solved train examples, example.

    Raises:
        InputError: A sentence and an example are more than the base reads.
    """
    sentence, _ = question.condition("description", 0)
    assert sentence is not None
    examples = setting.examples(question.task)
    told = [_told(sentence, example) for example in examples]
    framing = setting.roomy_framing
    if len(framing.fitting(told)) < len(told):
        raise InputError(
            f"task {question.task.name}: its sentence and an example are more than the {framing.max_length} tokens that are read; "
            "leave out the instructed methods"
        )
    if not demonstrated:
        return framing.batch(told)
    shown = [framing.shown(one, drawn) for one, drawn in zip(told, setting.demonstrations(question.task), strict=True)]
    first = [[_told(sentence, before[0]), *before[1:]] if before else [] for before in shown]
    queries = [example if before else one for example, one, before in zip(examples, told, first, strict=True)]
    return framing.batch(queries, first)


def multitask_adapter(setting: Setting, instructed: bool) -> LoRAFactors:
    """One adapter for all tasks of the pool, trained now or read from what an earlier evaluation with the same pool and settings kept."""
    manifest, config = setting.zoo.manifest, setting.config
    name = "multitask_instructed" if instructed else "multitask_blind"
    suite_hash = setting.zoo.suite_entry.hash
    read = setting.roomy_framing.max_length
    content = [[t.hash for t in setting.pool], suite_hash, manifest["lora"], manifest["zoo"], config.multitask_batch_size, read]
    folder = setting.cache_dir and setting.cache_dir / f"{name}-{hash_json(content)[:16]}"
    if folder and (folder / "adapter_config.json").is_file():
        return read_adapter(folder, setting.functional.shapes)
    zoo = ZooConfig(**{**manifest["zoo"], "batch_size": config.multitask_batch_size})
    if instructed:
        zoo = _as_long_as_all(zoo, setting.pool, manifest["zoo"]["batch_size"])
    lesson = multitask_lesson(setting, instructed)
    trained = train_adapters(setting.functional, [lesson], LoRAConfig(**manifest["lora"]), zoo, setting.pad_token_id)
    if folder:
        fan_in_fan_out = setting.functional.fan_in_fan_out
        write_adapter(folder, trained.factors, base_name=loadable_name(setting.base.name), fan_in_fan_out=fan_in_fan_out)
    return trained.factors


def multitask_lesson(setting: Setting, instructed: bool) -> Lesson:
    """All train examples of the pool's tasks; `instructed`: each after one of its task's seen wordings, in turn."""
    framing, pad = setting.roomy_framing, setting.pad_token_id
    batches = []
    for teacher in setting.pool:
        examples = setting.framing.of_task(setting.zoo.suite[teacher.task], "train")
        batches.append(framing.batch(framing.fitting(_each_told(setting, teacher, examples)) if instructed else examples))
    validation = [batch.rows(slice(0, VALIDATION)) for batch in batches]
    name = "multitask_instructed" if instructed else "multitask_blind"
    return Lesson(concatenate(batches, pad), concatenate(validation, pad), setting.pool[0].seed, name)


def _told(sentence: str, example: Example) -> Example:
    """The example with what is asked for before its input."""
    return replace(example, input=f"{sentence}\n\n{example.input}")


def _each_told(setting: Setting, teacher: Teacher, examples: Sequence[Example]) -> list[Example]:
    task = setting.zoo.suite[teacher.task]
    wordings = (task.description, *task.paraphrases)
    return [_told(wordings[i % len(wordings)], example) for i, example in enumerate(examples)]


def _as_long_as_all(zoo: ZooConfig, pool: Sequence[Teacher], batch_size: int) -> ZooConfig:
    """As many steps as see the examples that the teachers saw together."""
    steps = max(1, sum(teacher.steps or 0 for teacher in pool) * batch_size // zoo.batch_size)
    return replace(zoo, steps=steps, check_interval=max(zoo.check_interval, steps // CHECKS))
