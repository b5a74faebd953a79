"""Who is scored on the tasks of lm-evaluation-harness: the base, and adapters for tasks of a zoo or for sentences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llgbm.errors import InputError
from llgbm.evaluation.methods import METHODS, choose_methods
from llgbm.evaluation.setting import EvaluationConfig, Question, Setting, load_setting
from llgbm.lora.factors import LoRAFactors
from llgbm.models.ensemble import load_generator
from llgbm.models.writer import AdapterWriter
from llgbm.zoo.base import Base, load_recorded

BASE, GENERATED = "base", "generated"
WITHOUT_ADAPTER = ("few_shot", "instructed", "instructed_few_shot", "multitask_instructed", "soft_prompt")
"""Methods that put something before a question, which here is the harness's to write."""


@dataclass(frozen=True)
class Candidate:
    """One that is scored: the base, or the base with an adapter."""

    model: str
    """`base`, or the method that makes the adapter."""
    asked: str | None = None
    """The zoo's task, with the split that asks for it, or the sentence, that the adapter is for."""
    make: Callable[[], LoRAFactors] | None = None
    """Makes the adapter; None for the base."""


def candidates(
    checkpoint: str | Path | None,
    zoo_folder: str | Path,
    config: EvaluationConfig,
    descriptions: Sequence[str],
    zoo_tasks: Sequence[str],
) -> tuple[Base, list[Candidate]]:
    """The base, and who is scored on it; arguments and errors as of `lm_eval.evaluate_lm`."""
    of_zoo = bool(config.splits or zoo_tasks)
    setting = load_setting(checkpoint, zoo_folder, config) if of_zoo or checkpoint is None else None
    if setting is None:
        assert checkpoint is not None
        generator, base = _generator(checkpoint, config)
    else:
        generator, base = setting.generator, setting.base
    methods = _methods(config, setting, of_zoo)
    found = [Candidate(BASE)] if BASE in methods else []
    if setting is not None and of_zoo:
        for split, question in _questions(setting, zoo_tasks):
            asked = f"{question.task.name} ({split})"
            found += [Candidate(name, asked, partial(_made, setting, name, question)) for name in methods if name != BASE]
    if descriptions and generator is None:
        raise InputError("--description needs a generator; give it as --run")
    if generator is not None:
        found += [Candidate(GENERATED, text, partial(generator.generate, prompts=[[text]], base=base)) for text in descriptions]
    if not found:
        raise InputError("nothing to score; give --methods base, --zoo_tasks, --splits or --description")
    return base, found


def _questions(setting: Setting, zoo_tasks: Sequence[str]) -> Iterator[tuple[str, Question]]:
    """The zoo's tasks that are asked for, each with the split that asks. InputError when one is unknown, or in none of the splits."""
    suite = setting.zoo.suite
    wanted = {suite[name].name for name in zoo_tasks}
    own = list(dict.fromkeys(suite[name].split for name in zoo_tasks)) or suite.task_splits
    splits = setting.splits() if setting.config.splits else own
    found = [(split, question) for split in splits for question in setting.questions(split) if not wanted or question.task.name in wanted]
    missing = sorted(wanted - {question.task.name for _, question in found})
    if missing:
        raise InputError(f"zoo {setting.zoo.folder} has no teacher of task {missing[0]!r} in split {', '.join(splits)}; leave it out")
    yield from found


def _generator(checkpoint: str | Path, config: EvaluationConfig) -> tuple[AdapterWriter, Base]:
    """A generator and the base it writes for, where no zoo is needed."""
    generator = load_generator(checkpoint)
    if generator.spec.base is None:
        raise InputError(f"{checkpoint}: does not say for which base it writes; train the generator anew")
    base = load_recorded(f"generator {checkpoint}", generator.spec.base, config.base)
    return generator.to(base.model.device), base


def _methods(config: EvaluationConfig, setting: Setting | None, of_zoo: bool) -> Sequence[str]:
    """What is scored, seen to be possible."""
    for name in config.methods:
        if name in WITHOUT_ADAPTER:
            raise InputError(
                f"method {name} changes what the base reads, and the harness decides that; choose base or one that makes an adapter"
            )
        if not of_zoo and name in METHODS and name not in (BASE, GENERATED):
            raise InputError(f"method {name} makes adapters for tasks of the zoo; say for which by --zoo_tasks or --splits")
    if setting is not None and config.methods:
        return choose_methods(setting)
    own = [GENERATED] if setting is None or setting.generator is not None else []
    return config.methods or [BASE, *(["teacher", *own] if of_zoo else [])]


def _made(setting: Setting, method: str, question: Question) -> LoRAFactors:
    factors = METHODS[method].attempt(setting, [question]).factors
    assert factors is not None
    return factors
