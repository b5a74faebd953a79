"""Tasks by name."""

import difflib

from llgbm.errors import InputError
from llgbm.study.backbone import Backbone, load_backbone
from llgbm.study.config import StudyConfig
from llgbm.study.task import StudyTask
from llgbm.study.tasks.classification import ClassificationTask
from llgbm.study.tasks.generation import GenerationTask, micro_names
from llgbm.study.tasks.glue import GLUE
from llgbm.study.tasks.span import SQUAD, SpanTask


def load_task(name: str, backbone: Backbone, config: StudyConfig) -> StudyTask:
    """A task by name. InputError for an unknown one, and as its kind of task."""
    _check_known(name)
    if name in micro_names():
        return GenerationTask.micro(name, backbone, config.sizes)
    if name in GLUE:
        return ClassificationTask.load(name, backbone, config)
    return SpanTask.load(name, backbone, config)


def load_tasks(config: StudyConfig) -> dict[str, StudyTask]:
    """A study's tasks, on its base. InputError as `load_task` and `load_backbone`."""
    for name in config.sizes.train_examples_of:
        _check_known(name)
    backbone = load_backbone(config)
    return {name: load_task(name, backbone, config) for name in config.tasks}


def _check_known(name: str) -> None:
    known = [*micro_names(), *GLUE, SQUAD]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"unknown task {name!r}; {hint}give {', '.join(GLUE)}, {SQUAD}, or tasks of MicroZoo ('llgbm zoo tasks' shows them)"
        )
