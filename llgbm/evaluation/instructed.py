"""Queries that read the request itself before every example, of the base told what to do and of the LoRA that reads."""

from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.evaluation.setting import Question, Setting
from llgbm.multitask import told


def instructed_tokens(setting: Setting, question: Question, demonstrated: bool = False) -> TokenBatch:
    """The task's test examples, each after the question's sentence; `demonstrated`: sentence, solved train examples, example.

    Raises:
        InputError: A sentence and an example are more than the base reads.
    """
    sentence, _ = question.condition("description", 0)
    assert sentence is not None
    examples = setting.examples(question.task)
    instructed = [told(sentence, example) for example in examples]
    framing = setting.roomy_framing
    if len(framing.fitting(instructed)) < len(instructed):
        raise InputError(
            f"task {question.task.name}: its sentence and an example are more than the {framing.max_length} tokens that are read; "
            "leave out the instructed methods"
        )
    if not demonstrated:
        return framing.batch(instructed)
    shown = [framing.shown(one, drawn) for one, drawn in zip(instructed, setting.demonstrations(question.task), strict=True)]
    first = [[told(sentence, before[0]), *before[1:]] if before else [] for before in shown]
    queries = [example if before else one for example, one, before in zip(examples, instructed, first, strict=True)]
    return framing.batch(queries, first)
